// The graph as the server describes it, drawn in layers; its nodes light up as they run.

import {put, s, titled} from "./dom.js";

const LABELS = {__start__: "Question", __end__: "Answer"};
const GAP = {across: {layer: 146, node: 27}, down: {layer: 43, node: 66}};

/** {element, update(run)} of a graph. `communities`: key -> {name, colour}; `down`: drawn from top to bottom. */
export function graphView(graph, communities, down) {
  const places = layout(graph, down);
  const xs = Object.values(places).map(([x]) => x);
  const ys = Object.values(places).map(([, y]) => y);
  const [width, height] = [Math.max(...xs) + 2 * 46, Math.max(...ys) + 2 * 20];
  const nodes = {};
  const marks = graph.nodes.map(({id}) => {
    const community = communities[id.replace(/^draft_/, "")];
    const label = community?.name ?? LABELS[id] ?? titled(id);
    const [x, y] = places[id];
    const lines = broken(label);
    const text = down
      ? s("text", {x: 0, y: 21, "text-anchor": "middle"}, ...lines.map((line, n) => s("tspan", {x: 0, dy: n ? 12 : 0}, line)))
      : s("text", {x: 13, y: 4}, label);
    nodes[id] = s("g", {class: "node", transform: `translate(${x + 46} ${y + 20})`, style: {"--node": community?.colour ?? "var(--ink)"}},
      s("circle", {r: 12, class: "halo"}), s("circle", {r: 7, class: "drop"}), text);
    return nodes[id];
  });
  const edges = graph.edges.map(({source, target, conditional}) => {
    const [[x1, y1], [x2, y2]] = [places[source], places[target]].map(([x, y]) => [x + 46, y + 20]);
    const bend = down ? `${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2}` : `${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2}`;
    return s("path", {class: conditional ? "edge conditional" : "edge", d: `M${x1} ${y1} C${bend} ${x2} ${y2}`});
  });
  const title = s("title", {}, "The graph");
  const element = s("svg", {class: down ? "graph down" : "graph", viewBox: `0 0 ${width} ${height}`, role: "img"}, title, ...edges, ...marks);
  element.style.setProperty("--width", `${width}px`);
  return {
    element,
    update(run) {
      const over = run.phase === "done";
      for (const [id, node] of Object.entries(nodes)) {
        const state = run.broken.has(id) ? "broken"
          : run.running.has(id) ? "running"
          : run.finished.has(id) || id === "__start__" || (id === "__end__" && over) ? "finished" : "waiting";
        if (node.dataset.state !== state) node.dataset.state = state;
      }
      const running = [...run.running].map((id) => communities[id.replace(/^draft_/, "")]?.name ?? titled(id));
      put(title, running.length ? `The graph; running now: ${running.join(", ")}` : `The graph; ${run.phase}`);
    },
  };
}

/** Places by node: longest paths from the start are layers, the nodes of a layer lie side by side. */
export function layout(graph, down) {
  const layers = {};
  const before = Object.fromEntries(graph.nodes.map(({id}) => [id, []]));
  for (const {source, target} of graph.edges) before[target].push(source);
  const layer = (id) => (layers[id] ??= before[id].length ? 1 + Math.max(...before[id].map(layer)) : 0);
  const rows = [];
  for (const {id} of graph.nodes) (rows[layer(id)] ??= []).push(id);
  const most = Math.max(...rows.map((row) => row.length));
  const gap = down ? GAP.down : GAP.across;
  const places = {};
  rows.forEach((row, depth) => row.forEach((id, index) => {
    const side = (index + (most - row.length) / 2) * gap.node;
    places[id] = down ? [side, depth * gap.layer] : [depth * gap.layer, side];
  }));
  return places;
}

function broken(label) {
  return label.length > 11 ? label.split(/(?<=-)| (?=\S+$)/) : [label];
}
