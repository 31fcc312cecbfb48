// Elements, never HTML from a text: whatever a model or a person writes stays text.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("p", {class: "hint", on: {click}}, "text", child)`. null children are left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** Show or hide. */
export function show(element, visible) {
  element.hidden = !visible;
}

/** 0.4521 -> "45.2 %". */
export function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}

/** A name in words: "without-draft" -> "Without draft". */
export function titled(name) {
  return capital(name.replaceAll(/[-_]/g, " "));
}

export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "style") {
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    } else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
