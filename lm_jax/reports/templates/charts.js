// Shows the values of the nearest points of all curves of a chart under the pointer.
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg.chart")) {
  const curves = [...svg.querySelectorAll("g.curve")].map(group => {
    const circles = [...group.querySelectorAll("circle")].map(c => +c.getAttribute("cx"));
    const lines = [...group.querySelectorAll("polyline")].flatMap(
      line => line.getAttribute("points").split(" ").map(parseFloat));
    return {
      name: group.dataset.name,
      values: group.dataset.values.split(" "),
      xs: circles.concat(lines),
    };
  });
  if (!curves.length) continue;

  svg.addEventListener("mousemove", event => {
    const x = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse()).x;
    tip.textContent = curves.map(curve => {
      let nearest = 0;
      curve.xs.forEach((other, i) => {
        if (Math.abs(other - x) < Math.abs(curve.xs[nearest] - x)) nearest = i;
      });
      const [step, value] = curve.values[nearest].split(":");
      return `${curve.name} at ${step}: ${value}`;
    }).join("\n");
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  svg.addEventListener("mouseleave", () => { tip.style.display = "none"; });
}
