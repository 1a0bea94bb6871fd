// What outlives a reload of this tab, and nothing else: sessionStorage, as JSON.

const PREFIX = "gptoss_ray.";

/** Return a stored value, or `fallback` where there is none that can be read. */
export function load(name, fallback) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Store a value; a browser without storage, or without room, keeps it in memory alone. */
export function save(name, value) {
  try {
    sessionStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Nothing is lost before a reload.
  }
}
