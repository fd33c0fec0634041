// @ts-check
// Finding and making elements, with their kinds checked where they are found.

/** An address of ours as the browser has to write it: the application may stand under a path.
 * @param {string} address
 */
export function at(address) {
  return (document.documentElement.dataset.prefix ?? "") + address;
}

/** The first element that matches, or null.
 * @template {Element} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [root]
 * @param {new () => T} [kind]
 * @returns {T | null}
 */
export function find(selector, root = document, kind) {
  const found = root.querySelector(selector);
  if (found && !(found instanceof (kind ?? HTMLElement))) throw new TypeError(`${selector} is a ${found.tagName}`);
  return /** @type {T | null} */ (found);
}

/** The first element that matches: the page is sure to have one.
 * @template {Element} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [root]
 * @param {new () => T} [kind]
 * @returns {T}
 */
export function get(selector, root = document, kind) {
  const found = find(selector, root, kind);
  if (!found) throw new Error(`nothing matches ${selector}`);
  return found;
}

/** Every element that matches.
 * @template {Element} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [root]
 * @param {new () => T} [_kind] for its type alone
 * @returns {T[]}
 */
export function findAll(selector, root = document, _kind) {
  return /** @type {T[]} */ ([...root.querySelectorAll(selector)]);
}

/** A new element with its properties and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A field of a form, by its name: one that has a text for its value.
 * @param {HTMLFormElement} form
 * @param {string} name
 * @returns {HTMLInputElement | HTMLTextAreaElement}
 */
export function getField(form, name) {
  const field = form.elements.namedItem(name);
  if (field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) return field;
  throw new Error(`the form has no one field ${name}`);
}

/** A form's token against forged requests.
 * @param {HTMLFormElement} form
 */
export function getToken(form) {
  return getField(form, "csrf_token").value;
}

/** A form as the body of a request.
 * @param {HTMLFormElement} form
 */
export function encodeForm(form) {
  const pairs = [...new FormData(form)].map(([name, value]) => [name, String(value)]);
  return new URLSearchParams(pairs);
}
