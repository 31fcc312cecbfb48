// A combobox over all countries: by name, code, or another name they go by.

import {h} from "./dom.js";

const MOST_SHOWN = 60;

/** Fills `place` with the combobox. `countries`: the catalogue's; `homeOf`: ISO code -> community or null;
 * `inScope`: ISO code -> whether the palette has data of it. Returns {value, input, refresh}. */
export function countryPicker(place, {id, countries, homeOf, inScope, onPick}) {
  const list = h("ul", {role: "listbox", id: `${id}-list`, "aria-label": "Countries", hidden: true});
  const swatch = h("span", {class: "swatch", "aria-hidden": "true"});
  const input = h("input", {
    id, type: "text", role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false",
    "aria-controls": list.id, autocomplete: "off", spellcheck: "false", placeholder: "a country",
  });
  place.append(swatch, input, list);
  const byCode = Object.fromEntries(countries.map((country) => [country.iso3, country]));
  const keys = countries.map((country) =>
    [country, [country.name, country.iso3, country.iso2, ...country.aliases].map(plain)]);
  let chosen = null;
  let active = -1;

  function matches(text) {
    const wanted = plain(text);
    const ranked = [];
    for (const [country, names] of keys) {
      const rank = !wanted ? (inScope(country.iso3) ? 2 : 3)
        : names.some((name) => name === wanted) ? 0
        : names.some((name) => name.startsWith(wanted)) ? 1
        : names.some((name) => name.includes(wanted)) ? 2
        : plain(homeOf(country.iso3)?.name ?? "").startsWith(wanted) ? 3 : null;
      if (rank !== null) ranked.push([rank, country]);
    }
    ranked.sort(([one], [other]) => one - other);
    return ranked.slice(0, wanted ? MOST_SHOWN : countries.length).map(([, country]) => country);
  }

  function open(text) {
    const found = matches(text);
    list.replaceChildren(...found.map((country, index) => {
      const home = homeOf(country.iso3);
      return h("li", {
        role: "option", id: `${id}-${country.iso3}`, "data-code": country.iso3, "aria-selected": "false",
        on: {pointerdown: (event) => { event.preventDefault(); pick(country.iso3); }, pointermove: () => activate(index)},
      },
      h("span", {class: "swatch", style: {"--own": home?.colour ?? "transparent"}}),
      h("span", {}, country.name), h("small", {}, [home?.name, inScope(country.iso3) ? null : "not in its atlas"].filter(Boolean).join(", ")));
    }));
    if (!found.length) list.append(h("li", {class: "none"}, "No such country"));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    active = -1;
    if (found.length) activate(Math.max(0, found.findIndex(({iso3}) => iso3 === chosen)));
  }

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    input.value = chosen ? byCode[chosen].in_text : "";
    fit();
  }

  function activate(index) {
    const rows = list.querySelectorAll("[role=option]");
    if (!rows.length) return;
    rows[active]?.setAttribute("aria-selected", "false");
    active = (index + rows.length) % rows.length;
    rows[active].setAttribute("aria-selected", "true");
    rows[active].scrollIntoView({block: "nearest"});
    input.setAttribute("aria-activedescendant", rows[active].id);
  }

  function pick(code) {
    chosen = code;
    close();
    paint();
    if (document.activeElement === input) input.select(); // what is typed next replaces it
    onPick(code);
  }

  function paint() {
    swatch.style.setProperty("--own", (chosen && homeOf(chosen)?.colour) || "transparent");
  }

  function fit() {
    input.style.setProperty("--characters", Math.max(8, input.value.length + 1));
  }

  input.addEventListener("input", () => { fit(); open(input.value); });
  input.addEventListener("focus", () => input.select());
  input.addEventListener("mousedown", (event) => {
    if (!list.hidden) return;
    event.preventDefault(); // a caret set by the click would undo the selection, and typing would not replace it
    input.focus();
    input.select();
    open("");
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open("");
      else activate(active + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!list.hidden && active >= 0) pick(list.querySelectorAll("[role=option]")[active].dataset.code);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
  });

  return {
    input,
    get value() { return chosen; },
    set value(code) {
      chosen = byCode[code] ? code : null;
      close();
      paint();
    },
    refresh: paint,
  };
}

/** Without accents, case and dots, as people type. */
function plain(text) {
  return text.normalize("NFD").replaceAll(/[\u0300-\u036f.']/g, "").toLowerCase().trim();
}
