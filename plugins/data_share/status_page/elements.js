// Makes elements of the page.

/** Make an element with properties and children. */
export function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Set a link to an address from another system; hide the link unless it is a web address. */
export function setLink(node, address) {
  const isWeb = address !== null && URL.canParse(address) && /^https?:$/.test(new URL(address).protocol);
  node.hidden = !isWeb;
  if (isWeb && node.href !== address) node.href = address;
}
