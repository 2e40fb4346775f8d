"""Scripts that find what does not stand out on a page: text, borders of controls, the focus (WCAG 2.2 AA).

Each takes the least contrast and returns a line for each finding.
"""

TEXT, LARGE = 4.5, 3.0  # the least contrast of text and of large text (1.4.3)
CONTROL = 3.0  # of a control's border and of the focus (1.4.11, 2.4.7)
# Chromium itself lays the colors of an element's ancestors over one another, whatever notation they are in.
_RATIO = """
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const lay = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); };
  const luminance = () => [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (element, color) => {
    const above = [];
    for (let e = element; e; e = e.parentElement) above.unshift(getComputedStyle(e).backgroundColor);
    lay("white"); above.forEach(lay);
    const below = luminance(); lay(color);
    const [dark, light] = [below, luminance()].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const visible = (element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true})
    && element.getBoundingClientRect().width > 1;
  const who = (element) => `${element.tagName}.${element.className} ${element.type ?? ""} ${
    element.ariaLabel ?? element.closest("label, [id]")?.textContent.trim().slice(0, 40)}`;
"""
FAINT = (
    "([normal, large]) => {"
    + _RATIO
    + """
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
    const empty = element.matches(":placeholder-shown");
    const said = text || (empty ? element.placeholder : element.value) || "";
    const away = element.closest(":disabled, [aria-disabled=true], [aria-hidden=true], svg, script, style");
    const words = typeof said === "string" && /[\\p{L}\\p{N}]/u.test(said);  // arrows may lie on an image
    if (!words || away || element.matches("[type=range], [type=radio]")
      || element.matches("[type=checkbox], [type=file]")
      || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})
      || element.getBoundingClientRect().width < 2) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const color = empty ? getComputedStyle(element, "::placeholder").color : style.color;
    const need = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? large : normal;
    const has = ratio(element, color);
    const who = `${element.tagName}.${element.className}`;
    if (has < need) found.push(`${has.toFixed(2)} ${who}: ${said.slice(0, 40)}`);
  }
  return [...new Set(found)];
}"""
)
# A border or a fill of its own shows where a control is; the border can be that of a box around it.
EDGES = (
    "(least) => {"
    + _RATIO
    + """
  const boxes = "textarea, select, input:not([type=file], [type=range], [type=hidden])";
  const bordered = (element) => parseFloat(getComputedStyle(element).borderTopWidth) > 0;
  return [...document.querySelectorAll(boxes)].filter(visible).flatMap((element) => {
    let box = element;
    for (let up = 0; up < 3 && !bordered(box); up++) box = box.parentElement;
    const style = getComputedStyle(bordered(box) ? box : element), around = box.parentElement;
    const has = Math.max(ratio(around, style.backgroundColor), ratio(around, style.borderTopColor));
    return has < least ? [`${has.toFixed(2)} ${who(element)}`] : [];
  });
}"""
)
# After a key was pressed, a focus that a script sets shows as one that Tab sets.
UNFOCUSED = (
    "(least) => {"
    + _RATIO
    + """
  const controls = "button, a[href], summary, textarea, input:not([type=file], [type=hidden]), [role=tab]";
  const found = [...document.querySelectorAll(controls)].filter(visible).flatMap((element) => {
    element.focus({preventScroll: true});
    if (document.activeElement !== element) return [];
    const style = getComputedStyle(element);
    const is_drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    const has = is_drawn ? ratio(element.parentElement, style.outlineColor) : 1;
    return has < least ? [`${has.toFixed(2)} ${who(element)}`] : [];
  });
  document.activeElement.blur();
  return found;
}"""
)
