// A box that scrolls can be reached by keyboard, as not every browser sees to by itself.
const boxes = document.querySelectorAll(".scroll");
const reach = () => boxes.forEach((box) => {
  if (box.scrollWidth > box.clientWidth) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `${box.dataset.label}, scrolls sideways`);
  } else for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
});
new ResizeObserver(reach).observe(document.body);
