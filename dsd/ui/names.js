// Gives every image that is only shown its label as alternative text, because gradio has no option for one.
() => {
  const name = () => document.querySelectorAll("button .image-frame img:not([alt]), button .image-frame img[alt='']")
    .forEach((image) => {
      const label = image.closest(".block")?.querySelector("[data-testid=block-label]");
      if (label) image.alt = label.textContent.trim();
    });
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
}
