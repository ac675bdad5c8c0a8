// Small helpers around the document.

/** An element of the page by its id; that it is there is the page's promise. */
export function find<E extends HTMLElement>(id: string): E {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as E;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function rgb(colour: readonly number[]): string {
  return `rgb(${colour.join(" ")})`;
}

export function share(part: number, all: number): string {
  const percent = all ? (100 * part) / all : 0;
  return `${percent > 0 && percent < 0.1 ? "< 0.1" : percent.toFixed(1)} %`;
}

export function save(content: Blob, name: string): void {
  const address = URL.createObjectURL(content);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** What a browser keeps for this page, if it lets the page keep anything. */
export function kept(storage: "localStorage" | "sessionStorage", name: string): string | null {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

export function keepIn(storage: "localStorage" | "sessionStorage", name: string, value: string): void {
  try {
    window[storage].setItem(name, value);
  } catch {
    // then it is forgotten
  }
}
