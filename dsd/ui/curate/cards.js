// Labels the cards of the Curate tab by click and by key, and keeps what a visitor has unfolded.
// gradio calls this with `element`, `trigger`, `props` and `watch` of the component that shows the cards.
const opened = new Set();
const cards = () => [...element.querySelectorAll("[data-pair]")];
const press = (card, label) => card?.querySelectorAll("[data-label]").forEach((button) =>
  button.setAttribute("aria-pressed", String(button.dataset.label === label)));
const tell = (card, why) => {
  card?.querySelector("[role=alert]")?.remove();
  if (!card || !why) return;
  const box = Object.assign(document.createElement("div"), {className: "dsd-notice dsd-problem", textContent: why});
  box.setAttribute("role", "alert");
  card.append(box);
};
const mark = (card, label) => {
  press(card, label);
  tell(card, "");
  element.dataset.marked = JSON.stringify({id: card.dataset.pair, label, time: new Date().toISOString()});
  trigger("mark", {pair: card.dataset.pair, label});
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-label]");
  if (button) mark(button.closest("[data-pair]"), button.dataset.label);
});
element.addEventListener("toggle", ({target}) => {
  opened[target.open ? "add" : "delete"](target.closest("[data-pair]").dataset.pair);
}, true);

element.addEventListener("keydown", (event) => {
  const all = cards(), here = all.indexOf(event.target.closest("[data-pair]"));
  if (here < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const across = all.filter((card) => card.offsetTop === all[0].offsetTop).length;
  const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, s: 1, d: 1};
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!(key in steps)) return;
  event.preventDefault();
  if (key === "s" || key === "d") mark(all[here], key === "s" ? "keep" : "drop");
  (all[here + steps[key]] ?? all[here]).focus();
});

watch("value", () => element.querySelectorAll("details").forEach((details) => {
  details.open = opened.has(details.closest("[data-pair]").dataset.pair);
}));
watch("refused", () => {
  const card = cards().find((one) => one.dataset.pair === props.refused.pair);
  press(card, props.refused.label);
  tell(card, props.refused.why);
});
