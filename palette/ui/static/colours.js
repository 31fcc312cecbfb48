// Colours as paint: mixed by what they absorb, not by what they shine.

const FAINTEST = 0.04; // no pigment absorbs all light of a channel

/** The colour of pigments stirred together, "#rrggbb": Kubelka and Munk's theory with one constant a channel.
 * `parts`: [colour, weight] pairs; weights need not sum to 1. */
export function mixed(parts) {
  const total = parts.reduce((sum, [, weight]) => sum + weight, 0);
  const channels = [0, 1, 2].map((channel) => {
    let ratio = 0; // absorption over scattering
    for (const [colour, weight] of parts) {
      const reflected = Math.max(FAINTEST, linear(colour)[channel]);
      ratio += (weight / total) * ((1 - reflected) ** 2 / (2 * reflected));
    }
    return 1 + ratio - Math.sqrt(ratio ** 2 + 2 * ratio);
  });
  return `#${channels.map((value) => Math.round(255 * gamma(value)).toString(16).padStart(2, "0")).join("")}`;
}

function linear(colour) {
  return [1, 3, 5].map((at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
}

function gamma(value) {
  return value <= 0.0031308 ? value * 12.92 : 1.055 * value ** (1 / 2.4) - 0.055;
}
