// Airflow shows this page in a sandboxed frame, which can neither open windows nor navigate the page around it. So a
// click on a link is passed to the page around it: links to Airflow replace that page, all others open in a new tab.

function follow(event, link) {
  event.preventDefault();
  const outer = window.parent;
  const copy = outer.document.createElement("a");
  const isAirflow = new URL(link.href).origin === window.location.origin && link.target !== "_blank";
  copy.href = link.href;
  copy.target = isAirflow && event.button === 0 ? "_self" : "_blank";
  copy.rel = "noopener noreferrer";
  outer.document.body.append(copy);
  const { ctrlKey, metaKey, shiftKey, altKey } = event;
  copy.dispatchEvent(
    new outer.MouseEvent("click", { bubbles: true, cancelable: true, ctrlKey, metaKey, shiftKey, altKey }),
  );
  copy.remove();
}

export function letLinksLeaveTheFrame() {
  if (window.parent === window) return;
  const onClick = (event) => {
    const link = event.target.closest("a[href]");
    if (link && event.button < 2) follow(event, link);
  };
  document.addEventListener("click", onClick);
  document.addEventListener("auxclick", onClick);
}
