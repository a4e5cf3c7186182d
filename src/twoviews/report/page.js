(function () {
  "use strict";
  document.documentElement.classList.add("js");
  function number(value) {
    return Math.abs(value) >= 100 ? Math.round(value) : +value.toPrecision(4);
  }
  document.querySelectorAll("figure").forEach(function (figure) {
    var out = figure.querySelector(".readout");
    if (!out) return;
    figure.querySelectorAll("svg.chart").forEach(function (svg) {
      var box = svg.dataset.box.split(" ").map(Number), range = svg.dataset.range.split(" ").map(Number);
      var scale = Number(svg.dataset.scale || 1), cursor = document.createElementNS(svg.namespaceURI, "circle");
      cursor.setAttribute("class", "cursor");
      cursor.setAttribute("r", "6");
      cursor.setAttribute("visibility", "hidden");
      svg.appendChild(cursor);
      svg.addEventListener("pointermove", function (event) {
        var place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        var best = null;
        svg.querySelectorAll("polyline[data-name]").forEach(function (line) {
          Array.prototype.forEach.call(line.points, function (point, index) {
            var far = Math.abs(point.x - place.x) + 0.5 * Math.abs(point.y - place.y);
            if (!best || far < best.far) best = { far: far, line: line, point: point, index: index };
          });
        });
        if (!best) return;
        cursor.setAttribute("cx", best.point.x);
        cursor.setAttribute("cy", best.point.y);
        cursor.setAttribute("visibility", "visible");
        var mark = svg.querySelectorAll('[data-of="' + best.line.dataset.index + '"] title')[best.index];
        if (mark) { out.textContent = mark.textContent; return; }
        var x = range[0] + ((best.point.x - box[0]) / (box[1] - box[0])) * (range[1] - range[0]);
        var y = range[2] + ((best.point.y - box[2]) / (box[3] - box[2])) * (range[3] - range[2]);
        out.textContent = best.line.dataset.name + ": " + number(y * scale) + " at " + svg.dataset.x + " " + Math.round(x);
      });
      svg.addEventListener("pointerleave", function () {
        cursor.setAttribute("visibility", "hidden");
      });
    });
    function tell(event) {
      var part = event.target.closest("g.item, .dot, .cell");
      var title = part && part.querySelector("title");
      if (title) out.textContent = title.textContent;
    }
    figure.addEventListener("pointerover", tell);
    figure.addEventListener("click", tell);
    figure.querySelectorAll(".filter li").forEach(function (item) {
      item.tabIndex = 0;
      item.setAttribute("role", "button");
      function toggle() {
        var on = !item.classList.contains("on");
        figure.querySelectorAll(".filter li").forEach(function (other) { other.classList.toggle("on", on && other === item); });
        figure.querySelectorAll(".item, .dot").forEach(function (part) {
          part.classList.toggle("dim", on && !part.classList.contains(item.dataset.class));
        });
      }
      item.addEventListener("click", toggle);
      item.addEventListener("keydown", function (event) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
      });
    });
  });
})();
