// The example's chat in a document of jsdom's: says what it is given, prints what the page then shows, as JSON.
//
//   node chat_in_jsdom.mjs http://127.0.0.1:2024 "What is a good life?" Kenya

import {JSDOM} from "jsdom";

const [url, ...said] = process.argv.slice(2);
const {window} = new JSDOM("<div id=root></div>", {url: "http://127.0.0.1/"});
for (const name of ["window", "document", "navigator", "HTMLElement", "Event", "sessionStorage"]) globalThis[name] ??= window[name] ?? window;
globalThis.IS_REACT_ACT_ENVIRONMENT = false;

const {createElement} = await import("react");
const {createRoot} = await import("react-dom/client");
const {Chat} = await import("./chat.mjs");
createRoot(document.getElementById("root")).render(createElement(Chat, {apiUrl: url}));

const texts = (selector) => [...document.querySelectorAll(selector)].map((element) => element.textContent);
const bubbles = () => [...document.querySelectorAll("ol li")].map((element) => `${element.className}: ${element.textContent}`);
async function until(what, ready) {
  for (const end = Date.now() + 60_000; !ready();) {
    if (texts("[role=alert]").length) throw new Error(texts("[role=alert]").join());
    if (Date.now() > end) throw new Error(`still no ${what}: ${document.body.innerHTML}`);
    await new Promise((next) => setTimeout(next, 20));
  }
}

let most = 0;
const shown = [];
new window.MutationObserver(() => {
  most = Math.max(most, bubbles().length);
}).observe(document.getElementById("root"), {subtree: true, childList: true, characterData: true});
await until("form", () => document.querySelector("form"));
for (const [turn, text] of said.entries()) {
  const input = document.querySelector("input");
  Object.getOwnPropertyDescriptor(window.HTMLInputElement.prototype, "value").set.call(input, text);
  input.dispatchEvent(new window.Event("input", {bubbles: true}));
  await until("text", () => input.value === text);
  document.querySelector("form").dispatchEvent(new window.Event("submit", {bubbles: true, cancelable: true}));
  const idle = () => !document.querySelector("button").disabled;
  await until("answer", () => idle() && bubbles().length >= 2 * (turn + 1) && bubbles().at(-1).startsWith("ai: "));
  shown.push(bubbles());
}
const names = texts("dt");
console.log(JSON.stringify({shown, most, drafts: Object.fromEntries(texts("dd").map((text, i) => [names[i], text]))}));
process.exit(0);
