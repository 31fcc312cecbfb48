// Earlier conversations that the server keeps.

import {byId, h, titled} from "./dom.js";
import * as server from "./server.js";

/** Opens the dialog; `onOpen(thread)` for the one that a person picks. */
export async function openThreads(countries, onOpen) {
  const dialog = byId("threads");
  const list = h("ul", {class: "threads"});
  const names = Object.fromEntries(countries.map(({iso3, name}) => [iso3, name]));
  dialog.replaceChildren(
    h("form", {method: "dialog", class: "row"}, h("h2", {id: "threads-title"}, "Threads"), h("button", {class: "ink"}, "Close")), list);
  dialog.showModal();
  let found;
  try {
    found = await server.threads();
  } catch (error) {
    list.replaceChildren(h("li", {class: "error"}, error.message));
    return;
  }
  const row = (thread) => {
    const {title, country, method} = thread.metadata;
    const item = h("li", {},
      h("button", {type: "button", class: "thread", on: {click: () => { dialog.close(); onOpen(thread.thread_id); }}},
        h("b", {}, title ?? "Untitled"),
        h("small", {}, [names[country] ?? country, titled(method ?? ""), when(thread.updated_at)].filter(Boolean).join(" · "))),
      h("button", {type: "button", class: "quiet", "aria-label": `Delete “${title}”`, on: {click: async () => {
        await server.deleteThread(thread.thread_id);
        item.remove();
        if (!list.children.length) list.append(nothing());
      }}}, "Delete"));
    return item;
  };
  list.replaceChildren(...(found.length ? found.map(row) : [nothing()]));
}

const nothing = () => h("li", {class: "hint"}, "Nothing yet. Each question you put makes a thread.");

function when(text) {
  return new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short"}).format(new Date(text));
}
