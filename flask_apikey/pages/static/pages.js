"use strict";
for (const button of document.querySelectorAll("[data-apikey-copy]")) {
  const source = document.getElementById(button.dataset.apikeyCopy);
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    const status = document.getElementById(button.getAttribute("aria-describedby"));
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      status.textContent = button.dataset.apikeyCopied;
    } catch {
      getSelection().selectAllChildren(source);
    }
  });
}
// A second click would send the form again, and hide the answer to the first.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.apikeySent) event.preventDefault();
    form.dataset.apikeySent = "yes";
  });
}
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.apikeySent;
});
