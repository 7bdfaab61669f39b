// Nodes from data. Text becomes text nodes and styles go through the CSSOM: nothing is ever parsed as HTML or CSS text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

// Set text only where it differs: assistive technology hears changes, not repetitions.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A part of a view that is drawn again only when what it shows has changed.
export function part(node, draw) {
  let shown;
  return (...values) => {
    const now = JSON.stringify(values);
    if (now === shown) return;
    shown = now;
    node.replaceChildren(...[draw(...values)].flat().filter((child) => child));
  };
}
