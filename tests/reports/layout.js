// Writes what is wrong with the layout of each framed page into the document, as JSON.
const overlap = (a, b) =>
  a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;

const faultsOf = page => {
  const faults = [];
  const root = page.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`the page is ${root.scrollWidth} wide`);
  for (const svg of page.querySelectorAll("svg")) {
    if (!svg.getAttribute("aria-label")) faults.push("a chart has no name");
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(
      text => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([text, r], i) => {
      const inside = r.left >= box.left - 1 && r.right <= box.right + 1
        && r.top >= box.top - 1 && r.bottom <= box.bottom + 1;
      if (!inside) faults.push(`${text} is outside its chart`);
      for (const [other, s] of texts.slice(i + 1)) {
        if (overlap(r, s)) faults.push(`${text} and ${other} overlap`);
      }
    });
  }
  for (const cell of page.querySelectorAll("td, th")) {
    if (cell.closest(".attention")) continue;  // its columns are named vertically
    const text = cell.textContent.trim();
    const range = page.createRange();
    range.selectNodeContents(cell);
    const lines = range.getBoundingClientRect().height / 20;
    if (text.length > 2 && lines > Math.max(3, text.length / 3)) {
      faults.push(`${text} runs vertically`);
    }
  }
  for (const card of page.querySelectorAll(".cards div")) {
    if (card.scrollWidth > card.clientWidth) faults.push(`${card.textContent} leaves its card`);
  }
  for (const image of page.querySelectorAll("img")) {
    if (!image.hasAttribute("alt")) faults.push("a picture has no description");
  }
  return faults;
};

window.addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    found[frame.title] = faultsOf(frame.contentDocument);
  }
  const result = document.createElement("pre");
  result.id = "faults";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
