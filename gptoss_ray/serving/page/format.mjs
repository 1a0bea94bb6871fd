// Numbers as people read them. What is not known is a dash.

const NONE = "–";

/** Return a count or a rate with three digits and a unit of size: 0.25, 12.3, 1.2k, 34M. */
export function quantity(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  for (const [limit, size, letter] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
    if (Math.abs(value) >= limit) return `${digits(value / size)}${letter}`;
  }
  return Number.isInteger(value) ? String(value) : digits(value);
}

function digits(value) {
  return Number(value.toPrecision(3)).toString();
}

/** Return a share as whole per cent. */
export function percent(value) {
  return value === null || value === undefined ? NONE : `${Math.round(100 * value)} %`;
}

/** Return seconds in the unit that suits them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${digits(seconds * 1e6)} µs`;
  return seconds < 1 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds)} s`;
}

/** Return the time of day of a Unix time, in the person's own notation. */
export function timeOfDay(unix) {
  return new Date(unix * 1000).toLocaleTimeString();
}

/** Return the number of things with their name. */
export function counted(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}
