// A piece of code that can be read, selected and copied. The text is put in as text, never as markup.
function render({ model, el }) {
  const area = Object.assign(document.createElement("textarea"), { readOnly: true, spellcheck: false });
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "copy" });
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  button.className = "jupyter-button widget-button troupelab-copy";
  el.classList.add("troupelab-code");
  const write = () => {
    area.value = model.get("code");
    area.rows = Math.min(model.get("most_rows"), Math.max(1, area.value.split("\n").length));
    area.setAttribute("aria-label", model.get("label"));
    button.setAttribute("aria-label", `copy the ${model.get("label")}`);
    said.textContent = "";
  };
  area.addEventListener("focus", () => area.select());
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(area.value);
      said.textContent = "copied";
    } catch {
      area.focus(); // a page that is not trusted with the clipboard: all is selected, for Ctrl-C
      said.textContent = "selected: press Ctrl-C";
    }
  });
  model.on("change", write);
  write();
  const row = document.createElement("div");
  row.append(button, said);
  el.append(area, row);
  return () => model.off("change", write);
}
export default { render };
