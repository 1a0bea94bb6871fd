// Light or dark: the system's choice, or the person's where it differs. Runs before the page is painted.

const NAME = "gptoss_ray.theme";
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function systems() {
  return prefersDark.matches ? "dark" : "light";
}

/** Return the theme that is on. */
export function theme() {
  return root.dataset.theme ?? systems();
}

/** Turn to the other theme; back at the system's own, the page follows the system again. */
export function switchTheme() {
  const wanted = theme() === "dark" ? "light" : "dark";
  apply(wanted === systems() ? null : wanted);
  try {
    if (root.dataset.theme) localStorage.setItem(NAME, wanted);
    else localStorage.removeItem(NAME);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

function apply(wanted) {
  if (wanted) root.dataset.theme = wanted;
  else delete root.dataset.theme;
}

try {
  const stored = localStorage.getItem(NAME);
  if (stored === "light" || stored === "dark") apply(stored);
} catch {
  // The system's theme is on.
}
