// Elements, never HTML from a text: whatever a model or a person writes stays text, and hides nothing.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("p", {class: "hint", on: {click}}, "text", child)`. null children are left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

// Characters that hide or reorder others, as palette/safe_text.py has them: controls, order, width, halves of
// pairs, letters that nobody sees; joiners belong in other scripts.
const HIDDEN = new RegExp(
  "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u180e\\u200b\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}]"
  + "|(?<=[\\x20-\\x7e])[\\u200c-\\u200f]|[\\u200c-\\u200f](?=[\\x20-\\x7e])", "gu");

/** The text with such characters as a sign that is seen. */
export function visible(text) {
  return text.replaceAll("\r\n", "\n").replace(HIDDEN, "\ufffd");
}

/** JSON text with such characters as escapes, which say the same; `long`: how one beyond U+FFFF is written. */
export function escaped(json, long = (code) => String.fromCodePoint(code).split("").map((unit) => `\\u${hex(unit.charCodeAt(0), 4)}`).join("")) {
  return json.replace(HIDDEN, (sign) => sign.codePointAt(0) > 0xffff ? long(sign.codePointAt(0)) : `\\u${hex(sign.codePointAt(0), 4)}`);
}

export function hex(number, digits) {
  return number.toString(16).padStart(digits, "0");
}

/** Put a text into an element, where it changes. */
export function put(element, text) {
  const shown = visible(text ?? "");
  if (element.textContent !== shown) element.textContent = shown;
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
    else if (name === "aria-label" || name === "title") element.setAttribute(name, visible(value));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined)
    .map((child) => typeof child === "string" ? visible(child) : child));
  return element;
}
