// Draws the attention map that is chosen; without scripts the page shows the first one.
for (const box of document.querySelectorAll(".attention")) {
  const kinds = JSON.parse(box.querySelector("script").textContent);
  const [kind, layer, head] = box.querySelectorAll("select");
  const table = box.querySelector("table");
  const output = box.querySelector("output");
  const buttons = [...box.querySelectorAll("figure")].map(figure =>
    [...figure.querySelectorAll("div")].map(row => [...row.querySelectorAll("button")]));

  const element = (tag, text) => {
    const made = document.createElement(tag);
    made.textContent = text;
    return made;
  };

  const setOptions = (select, names) => {
    const kept = Math.min(select.selectedIndex, names.length - 1);
    select.replaceChildren(...names.map(name => new Option(name)));
    select.selectedIndex = Math.max(kept, 0);
  };

  const cell = (shown, query, key, thousandths) => {
    const td = element("td", "");
    if (thousandths !== ".") {
      const weight = thousandths / 1000;
      td.style.setProperty("--w", `${100 * Math.sqrt(weight)}%`);
      td.title = `${shown.readers[query]} attends to ${shown.read[key]}: ${weight.toFixed(3)}`;
    }
    return td;
  };

  const draw = () => {
    const shown = kinds[kind.selectedIndex];
    setOptions(layer, shown.layers);
    setOptions(head, shown.heads);
    const top = element("tr", "");
    top.append(element("th", ""), ...shown.read.map(name => {
      const th = element("th", "");
      th.append(element("span", name));
      return th;
    }));
    const lines = shown.maps[layer.selectedIndex][head.selectedIndex];
    table.replaceChildren(top, ...lines.map((line, query) => {
      const row = element("tr", "");
      row.append(
        element("th", shown.readers[query]),
        ...line.split(" ").map((weight, key) => cell(shown, query, key, weight)));
      return row;
    }));
    for (const button of box.querySelectorAll("button.on")) button.classList.remove("on");
    buttons[kind.selectedIndex][layer.selectedIndex][head.selectedIndex].classList.add("on");
  };

  for (const select of [kind, layer, head]) select.addEventListener("change", draw);
  buttons.forEach((rows, i) => rows.forEach((row, j) => row.forEach((button, k) =>
    button.addEventListener("click", () => {
      kind.selectedIndex = i;
      draw();
      layer.selectedIndex = j;
      head.selectedIndex = k;
      draw();
    }))));

  table.addEventListener("mouseover", event => {
    const td = event.target.closest("td");
    for (const th of table.querySelectorAll("th.on")) th.classList.remove("on");
    output.textContent = td ? td.title : "";
    if (!td) return;
    td.parentNode.firstChild.classList.add("on");
    table.rows[0].cells[td.cellIndex].classList.add("on");
  });
  draw();
}
