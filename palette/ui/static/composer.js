// The form: what a person wants to know, of whom, by which method.

import {countryPicker} from "./country-picker.js";
import {byId, capital, h, put, show, titled} from "./dom.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const MOST_OPTIONS = 40;
const FIRST_COUNTRY = "NZL";

/** The form of a catalogue. `served`: graph ids that the server has. `onAsk(request, versus, origin)`;
 * `prompts`: the prompt editor. */
export function composer(catalogue, served, prompts, onAsk) {
  const form = byId("composer");
  const question = byId("question");
  const options = byId("options");
  const maps = Object.fromEntries(catalogue.maps.map((map) => [map.key, {...map, homes: homes(map)}]));
  let origin = null;

  const map = () => maps[byId("map").value];
  const graph = (method) => (map().key === catalogue.map ? method : `${method}@${map().key}`);
  const shared = {
    countries: catalogue.countries,
    homeOf: (code) => map().homes[code] ?? null,
    inScope: (code) => map().scope === null || map().scope.includes(code),
  };
  byId("map").append(...catalogue.maps.map(({key, name}) => h("option", {value: key}, name)));
  const country = countryPicker(byId("country-picker"), {id: "country", ...shared, onPick: () => {}});
  const other = countryPicker(byId("other-picker"), {id: "other-country", ...shared, onPick: () => {}});

  function fillMethods() {
    for (const id of ["method", "other-method"]) {
      const select = byId(id);
      const old = select.value;
      const there = catalogue.methods.filter(({name}) => served.has(graph(name)));
      const groups = [["method", "The method and its ablations"], ["baseline", "Baselines and controls"]].map(([kind, label]) =>
        h("optgroup", {label}, ...there.filter((method) => method.kind === kind).map(({name}) => h("option", {value: name}, titled(name)))));
      select.replaceChildren(...groups.filter((group) => group.children.length));
      if (there.some(({name}) => name === old)) select.value = old;
    }
    if (byId("other-method").value === byId("method").value) {
      const next = [...byId("other-method").options].find(({value}) => value !== byId("method").value);
      if (next) byId("other-method").value = next.value;
    }
  }

  function describe() {
    const source = (name) => catalogue.methods.find((method) => method.name === name)?.source;
    byId("method-source").textContent = capital(source(byId("method").value) ?? "");
    show(byId("map-missing"), map().missing !== null);
    put(byId("map-missing"), map().missing);
    const kind = byId("versus").value;
    show(byId("versus-country"), kind === "country");
    show(byId("versus-method"), kind === "method");
    put(byId("models"), map().models.length ? `Played by ${players(map().models).join(", ")}.` : "");
    country.refresh();
    other.refresh();
    prompts.mark();
    const changed = Object.keys(knobs()).length;
    show(byId("settings-changed"), changed > 0);
    byId("settings-changed").textContent = `${changed} changed`;
  }

  // -- options ------------------------------------------------------------------------------------

  function optionRow(text) {
    const input = h("input", {type: "text", value: text, maxlength: 8000, on: {
      keydown: (event) => {
        if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
          event.preventDefault();
          addOption("", row);
        } else if (event.key === "Backspace" && input.value === "") {
          event.preventDefault();
          remove();
        }
      },
      paste: (event) => {
        const lines = event.clipboardData.getData("text").split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
        if (lines.length < 2) return;
        event.preventDefault();
        input.value = lines[0];
        lines.slice(1).reduce((before, line) => addOption(line, before), row);
      },
    }});
    const remove = () => {
      const next = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      letter();
      (next?.querySelector("input") ?? byId("add-option")).focus();
    };
    const row = h("li", {}, h("span", {class: "letter", "aria-hidden": "true"}), input,
      h("button", {type: "button", class: "quiet", on: {click: remove}}, "×"));
    return row;
  }

  function addOption(text, before = options.lastElementChild) {
    if (options.children.length >= MOST_OPTIONS) return before;
    const row = optionRow(text);
    if (before) before.after(row);
    else options.append(row);
    letter();
    row.querySelector("input").focus();
    return row;
  }

  function letter() {
    [...options.children].forEach((row, index) => {
      row.querySelector(".letter").textContent = LETTERS[index] ?? String(index + 1);
      row.querySelector("input").setAttribute("aria-label", `Option ${index + 1}`);
      row.querySelector("button").setAttribute("aria-label", `Remove option ${index + 1}`);
    });
  }

  function setOptions(texts) {
    options.replaceChildren(...texts.map(optionRow));
    letter();
  }

  // -- knobs --------------------------------------------------------------------------------------

  byId("knobs").append(...catalogue.knobs.filter(({name}) => name !== "seed").map((knob) => {
    const id = `knob-${knob.name}`;
    const field = knob.choices.length
      ? h("select", {id}, ...knob.choices.map((choice) => h("option", {value: choice}, choice)))
      : h("input", {id, type: "number", step: knob.whole ? 1 : "any", min: knob.at_least, max: knob.at_most, placeholder: "as the server says"});
    field.value = knob.default ?? "";
    return h("label", {title: knob.description}, titled(knob.name), field, h("small", {}, knob.description));
  }));

  function knobs() {
    const turned = {};
    for (const {name, default: usual, choices} of catalogue.knobs) {
      if (name === "seed") continue;
      const text = byId(`knob-${name}`).value;
      if (text === "" || text === String(usual ?? "")) continue;
      turned[name] = choices.length ? text : Number(text);
    }
    return turned;
  }

  function setKnobs(values) {
    for (const {name, default: usual} of catalogue.knobs) {
      if (name !== "seed") byId(`knob-${name}`).value = values[name] ?? usual ?? "";
    }
  }

  // -- the whole ----------------------------------------------------------------------------------

  function request() {
    return {
      map: map().key, method: byId("method").value, country: country.value, question: question.value.trim(),
      options: [...options.querySelectorAll("input")].map((input) => input.value.trim()).filter(Boolean),
      seed: Number(byId("seed").value) || 0, knobs: knobs(), prompts: prompts.changed(),
    };
  }

  function versus() {
    const kind = byId("versus").value;
    if (!kind) return null;
    return {kind, value: kind === "country" ? other.value : byId("other-method").value};
  }

  function fault(wanted, beside) {
    if (!wanted.country) return ["Choose a country.", country.input];
    if (!wanted.question) return ["Write a question, or take one of those below it.", question];
    if (wanted.options.length === 1) return ["One option is no choice: add another, or take it away for a free answer.", options.querySelector("input")];
    if (beside && !beside.value) return ["Choose the other country.", other.input];
    const wrong = form.querySelector("input:invalid");
    if (wrong) return [`${wrong.labels?.[0]?.firstChild.textContent.trim() ?? "A value"}: ${wrong.validationMessage}`, wrong];
    const broken = prompts.fault();
    return broken ? [broken, byId("open-prompts")] : null;
  }

  function submit() {
    const [wanted, beside] = [request(), versus()];
    const wrong = fault(wanted, beside);
    put(byId("composer-error"), wrong?.[0]);
    if (wrong) {
      if (wrong[1].closest("details")) wrong[1].closest("details").open = true;
      wrong[1].focus();
      return;
    }
    onAsk(wanted, beside, origin);
  }

  function grow() {
    question.style.setProperty("height", "auto");
    question.style.setProperty("height", `${question.scrollHeight}px`);
  }

  function setQuestion(text, texts) {
    question.value = text;
    setOptions(texts);
    grow();
  }

  const fromSurvey = (catalogue.survey?.questions ?? []).map((example) => ({...example, survey: catalogue.survey.name}));
  byId("suggestions").append(...[...catalogue.questions, ...fromSurvey].map((example) => h("li", {},
    h("button", {type: "button", class: "chip", on: {click: () => {
      setQuestion(example.question, example.options ?? []);
      byId("composer-error").textContent = "";
      byId("ask").focus({preventScroll: true});
    }}}, example.question, example.survey ? h("small", {}, ` ${example.survey}`) : null))));
  byId("more-suggestions").addEventListener("click", () => {
    const next = [...byId("suggestions").children].find((item) => !item.checkVisibility());
    byId("suggestions").classList.add("all");
    byId("more-suggestions").remove();
    next?.querySelector("button").focus();
  });
  byId("add-option").addEventListener("click", () => addOption(""));
  byId("reset-knobs").addEventListener("click", () => { setKnobs({}); describe(); });
  byId("drop-origin").addEventListener("click", () => { setOrigin(null); question.focus(); });
  byId("map").addEventListener("change", () => { fillMethods(); describe(); });
  question.addEventListener("input", grow);
  window.addEventListener("resize", grow);
  form.addEventListener("change", describe);
  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
  });

  function setOrigin(value) {
    origin = value;
    show(byId("origin"), value !== null);
    if (value) put(byId("origin-text"), `${value.fork ? "Forks from" : "Goes on from"} “${value.title}”.`);
  }

  /** Puts a request into the form. */
  function fill(wanted, beside = null) {
    byId("map").value = maps[wanted.map] ? wanted.map : catalogue.map;
    fillMethods();
    if ([...byId("method").options].some(({value}) => value === wanted.method)) byId("method").value = wanted.method;
    country.value = wanted.country;
    byId("seed").value = wanted.seed;
    setQuestion(wanted.question, wanted.options);
    setKnobs(wanted.knobs);
    prompts.set(wanted.prompts);
    byId("versus").value = ["country", "method"].includes(beside?.kind) ? beside.kind : "";
    if (beside?.kind === "country") other.value = beside.value;
    fillMethods();
    if (beside?.kind === "method") byId("other-method").value = beside.value;
    describe();
  }

  const defaults = {
    map: catalogue.map, method: "palette", country: FIRST_COUNTRY, question: catalogue.questions[0].question,
    options: catalogue.questions[0].options ?? [], seed: catalogue.knobs.find(({name}) => name === "seed").default,
    knobs: {}, prompts: {},
  };
  other.value = "JPN";
  return {
    defaults, fill, setOrigin, maps, describe, request,
    focus() { question.focus(); question.scrollIntoView({block: "center"}); },
  };
}

function homes(map) {
  return Object.fromEntries(map.communities.flatMap((community) => community.countries.map((code) => [code, community])));
}

/** Models by name; those of one embedded palette together. */
function players(models) {
  return [...new Set(models.map((model) => model.replace(/^embedded:(.*)\/[^/]*$/, "the embedded palette $1")))];
}
