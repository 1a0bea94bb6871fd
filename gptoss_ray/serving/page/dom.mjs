// Making elements. Text becomes text nodes alone: there is no way here from a string to markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element with attributes, listeners (`onclick` …) and children; false and null are left out. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Return one of the icons of index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Return a button that is an icon with a name for those who cannot see it. */
export function iconButton(name, label, onclick) {
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick },
    icon(name),
  );
}

/** Return a button with words on it. */
export function textButton(label, onclick, attributes = {}) {
  return element("button", { type: "button", class: "button", onclick, ...attributes }, label);
}

/** Return what only a screen reader says. */
export function spoken(text, name = "span") {
  return element(name, { class: "visually-hidden" }, text);
}

/** Return the element of index.html with this id. */
export function byId(id) {
  return document.getElementById(id);
}
