// The panel as an anywidget: the kernel answers what the page of a server would ask for.

import { mountPanel } from "./mount.js";
import { AnswerError } from "./source.js";

const LOST = 60000; // ms without a word from the kernel

function kernel(model) {
  const waiting = new Map();
  let number = 0;
  const hear = ({ id, error }) => {
    const settle = waiting.get(id);
    if (error) settle?.reject(new AnswerError(error));
    else settle?.resolve(model.get("answer")); // which came just before
  };
  model.on("msg:custom", hear);
  const question = () => new Promise((resolve, reject) => {
    const id = (number += 1);
    const late = setTimeout(() => waiting.get(id)?.reject(new AnswerError("the kernel does not answer")), LOST);
    const settled = (settle) => (value) => {
      waiting.delete(id);
      clearTimeout(late);
      settle(value);
    };
    waiting.set(id, { resolve: settled(resolve), reject: settled(reject) });
    model.send({ ask: "refresh", id });
  });
  return { question, end: () => model.off("msg:custom", hear) };
}

function render({ model, el }) {
  const wire = model.get("live") ? kernel(model) : null;
  const panel = mountPanel(el, {
    symbol: model.get("symbol"),
    timeframe: model.get("timeframe"),
    answer: model.get("answer"),
    question: wire?.question ?? null,
    every: 1000 * model.get("every"),
  });
  const pushed = () => panel.feed.take(model.get("answer"));
  model.on("change:answer", pushed);
  return () => {
    model.off("change:answer", pushed);
    wire?.end();
    panel.destroy();
  };
}

export default { render };
