// The blend as mixed paint: a drop for each community, running together in the measure of its weight.

import {mixed} from "./colours.js";
import {h, percent, s} from "./dom.js";

const HEIGHT = 220;
const STACK = 150; // height of all streams side by side
let count = 0;

/** A figure of weights by community. `communities`: [{key, name, colour}]; `weights`: key -> share; `place`:
 * what the paint is mixed for. */
export function blendFigure(communities, weights, place) {
  const parts = communities.filter(({key}) => weights[key] !== undefined)
    .map((community) => ({...community, weight: weights[community.key]}));
  const colour = mixed(parts.map(({colour, weight}) => [colour, weight]));
  const list = h("ul", {class: "weights"}, ...parts.map(({name, colour: own, weight}) =>
    h("li", {style: {"--own": own, "--share": weight}}, h("span", {class: "swatch"}), h("span", {}, name), h("b", {}, percent(weight)))));
  return h("figure", {class: "blend", style: {"--mix": colour}},
    h("figcaption", {}, `Mixed for ${place}`), drawing(parts, colour), list);
}

/** The same before anything is mixed: every community's paint, none of it weighed. */
export function dryFigure(communities) {
  const parts = communities.map((community) => ({...community, weight: 1 / communities.length}));
  return h("figure", {class: "blend"}, h("figcaption", {}, "Not mixed yet"),
    drawing(parts, mixed(parts.map(({colour, weight}) => [colour, weight])), true));
}

function drawing(parts, colour, dry = false) {
  const id = `paint-${++count}`;
  const step = (HEIGHT - 48) / Math.max(1, parts.length - 1);
  let top = (HEIGHT - STACK) / 2;
  const streams = [];
  const drops = [];
  parts.forEach(({colour: own, weight, name}, index) => {
    const y = parts.length === 1 ? HEIGHT / 2 : 24 + index * step;
    const radius = 5 + 22 * Math.sqrt(weight);
    const thick = weight * STACK;
    const thin = Math.min(radius * 0.55, thick / 2 + 1);
    streams.push(s("path", {fill: own, d:
      `M24 ${y - thin} C180 ${y - thin} 190 ${top} 340 ${top} L480 ${top} L480 ${top + thick} L340 ${top + thick} ` +
      `C190 ${top + thick} 180 ${y + thin} 24 ${y + thin} Z`}));
    drops.push(s("circle", {cx: 26, cy: y, r: radius, fill: own}, s("title", {}, `${name} ${percent(weight)}`)));
    top += thick;
  });
  const edge = (HEIGHT - STACK) / 2;
  return s("svg", {class: dry ? "paint dry" : "paint", viewBox: `0 0 600 ${HEIGHT}`, "aria-hidden": "true", focusable: "false"},
    s("defs", {},
      s("linearGradient", {id: `${id}-fade`, gradientUnits: "userSpaceOnUse", x1: 320, x2: 470, y1: 0, y2: 0},
        s("stop", {offset: 0, "stop-color": colour, "stop-opacity": 0}), s("stop", {offset: 1, "stop-color": colour})),
      s("filter", {id: `${id}-rough`, x: "-5%", y: "-10%", width: "110%", height: "120%"},
        s("feTurbulence", {type: "fractalNoise", baseFrequency: "0.012 0.03", numOctaves: 2, seed: 4, result: "noise"}),
        s("feDisplacementMap", {in: "SourceGraphic", in2: "noise", scale: 12, xChannelSelector: "R", yChannelSelector: "G"}))),
    s("g", {filter: `url(#${id}-rough)`},
      ...streams, ...drops,
      s("path", {fill: `url(#${id}-fade)`, d: `M320 ${edge - 1} H500 V${HEIGHT - edge + 1} H320 Z`}),
      s("path", {class: "pool", fill: colour, d: "M452 24 C512 2 590 34 588 104 C590 172 540 216 478 202 C430 196 428 160 440 112 C430 70 430 34 452 24 Z"})));
}
