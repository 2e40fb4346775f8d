() => {
  const find = (selector) => document.querySelector(selector);
  const field = () => find("#prompt textarea, #prompt input");
  const type = (field, text) => {
    const set = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set;
    set.call(field, text);
    field.dispatchEvent(new Event("input", {bubbles: true}));
  };
  const prompt = () => field()?.value ?? "";
  const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const whole = (text) => new RegExp(`(?<![\\p{L}\\p{N}])${escape(text)}(?![\\p{L}\\p{N}])`, "iu");
  const tidy = (text) => text.replace(/\s+/g, " ").trim();

  // A chip puts its phrase into the prompt, in the place of another one of its group, or takes it out.
  const insert = (chip) => {
    const text = prompt(), phrase = chip.textContent;
    if (whole(phrase).test(text)) return type(field(), tidy(text.replace(whole(phrase), "")));
    const group = [...chip.parentElement.querySelectorAll(".dsd-chip")].map((other) => other.textContent);
    const old = group.find((other) => whole(other).test(text));
    type(field(), old ? text.replace(whole(old), phrase) : tidy(`${text} ${phrase}`));
  };
  // A near word takes the place of an unknown one, everywhere in the fields that its notice is about.
  const correct = (chip) => {
    const {fields} = chip.closest("[data-fields]").dataset, word = new RegExp(whole(chip.dataset.word), "giu");
    document.querySelectorAll(`:is(${fields}) :is(textarea, input)`).forEach((field) => {
      const text = field.value.replace(word, chip.textContent);
      if (text !== field.value) type(field, text);
    });
  };
  window.dsdPress = () => document.querySelectorAll("#chips .dsd-chip").forEach((chip) => {
    chip.setAttribute("aria-pressed", whole(chip.textContent).test(prompt()));
  });
  document.addEventListener("click", (event) => {
    const chip = event.target.closest?.(".dsd-chip");
    if (chip) chip.dataset.word ? correct(chip) : insert(chip);
  });
  window.dsdPress();

  // Ctrl+V anywhere takes an image as the reference, except text with its picture (Excel, Word) in a field.
  document.addEventListener("paste", async (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    const upload = ["#upload", "#story-image"].find((id) => find(id)?.checkVisibility());
    const isText = event.target.matches?.("input, textarea") && event.clipboardData.getData("text/plain");
    if (!file || !upload || isText) return;
    event.preventDefault();
    find(`${upload} [aria-label='Remove Image']`)?.click();
    for (let wait = 0; wait < 250 && !find(`${upload} input[type=file]`); wait++) {
      await new Promise((done) => setTimeout(done, 40));
    }
    const input = find(`${upload} input[type=file]`), files = new DataTransfer();
    if (!input) return;
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", {bubbles: true}));
  });

  // Tooltips of buttons, for which gradio has no option; screen readers read them as descriptions.
  const hints = {
    "#another": "Draws this image again, with a new seed",
    "#restore-original, #story-restore-original": "Takes the image as you gave it",
  };
  const hint = () => Object.entries(hints).forEach(([selector, text]) => document.querySelectorAll(selector)
    .forEach((button) => { button.title ||= text; }));
  new MutationObserver(hint).observe(document.body, {childList: true, subtree: true});

  // The place in the queue, in words; gradio writes "queue: 2/3" into its own tracker.
  const waiting = "#status, #sheet-status, #grid-status, #story-status, #describe-remark, #story-write-remark";
  new MutationObserver(() => document.querySelectorAll(waiting).forEach((status) => {
    const place = status.querySelector("[data-testid=status-tracker]")?.textContent.match(/queue: (\d+)\//);
    const before = place ? Number(place[1]) : 0;
    const line = before ? `${before} ${before === 1 ? "person" : "people"} before you` : "";
    if ((status.dataset.place ?? "") !== line) status.dataset.place = line;
  })).observe(document.body, {childList: true, subtree: true, characterData: true});

  // A box that is dragged, or clicked corner by corner, on the reference: left, top, right, bottom as shares
  // of the image, or "" when Escape or another click on Crop ends it.
  let cancel = null;
  window.dsdBox = (selector) => new Promise((resolve) => {
    cancel?.();
    const image = find(selector);
    image.scrollIntoView({block: "nearest"});
    const layer = document.createElement("div"), box = document.createElement("i");
    layer.className = "dsd-crop";
    layer.dataset.hint = "Drag a box around the subject. Esc ends this.";
    const place = () => {
      const outer = image.getBoundingClientRect();
      const scale = Math.min(outer.width / image.naturalWidth, outer.height / image.naturalHeight);
      const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
      Object.assign(layer.style, {
        left: `${outer.left + scrollX + (outer.width - width) / 2}px`, width: `${width}px`,
        top: `${outer.top + scrollY + (outer.height - height) / 2}px`, height: `${height}px`,
      });
    };
    place();
    layer.append(box);
    document.body.append(layer);
    let from = null, to = null;
    const at = (event) => {
      const edge = layer.getBoundingClientRect();
      const share = (value, size) => Math.min(1, Math.max(0, value / size));
      return [share(event.clientX - edge.left, edge.width), share(event.clientY - edge.top, edge.height)];
    };
    const corners = () => [0, 1].map((i) => [Math.min(from[i], to[i]), Math.max(from[i], to[i])]);
    const end = (answer) => {
      layer.remove();
      document.removeEventListener("keydown", key);
      window.removeEventListener("resize", place);
      cancel = null;
      resolve(answer);
    };
    const key = (event) => event.key === "Escape" && end("");
    const finish = () => {
      const [[left, right], [top, bottom]] = corners();
      if (Math.max(right - left, bottom - top) > 0.03) end(`${left} ${top} ${right} ${bottom}`);
    };
    cancel = () => end("");
    document.addEventListener("keydown", key);
    window.addEventListener("resize", place);
    layer.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      layer.setPointerCapture(event.pointerId);
      if (from) { to = at(event); return finish(); }
      from = to = at(event);
    });
    layer.addEventListener("pointermove", (event) => {
      if (!from) return;
      to = at(event);
      const [[left, right], [top, bottom]] = corners();
      Object.assign(box.style, {
        left: `${100 * left}%`, width: `${100 * (right - left)}%`, top: `${100 * top}%`, height: `${100 * (bottom - top)}%`,
      });
    });
    layer.addEventListener("pointerup", finish);
  });

  // Images that are only shown get their label as alternative text, and choices theirs as the name of the group,
  // because gradio has no option for either.
  const label = (part, kind) => part.closest(".block")?.querySelector(`[data-testid=${kind}]`)?.textContent.trim();
  const name = () => {
    document.querySelectorAll("button .image-frame img:not([alt]), button .image-frame img[alt='']")
      .forEach((image) => { const text = label(image, "block-label"); if (text) image.alt = text; });
    document.querySelectorAll("fieldset:not([aria-label])").forEach((group) => {
      const text = label(group, "block-info");
      if (text) group.setAttribute("aria-label", text);
    });
  };
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
}
