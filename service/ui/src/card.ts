// A model card, which is Markdown from a registry: nothing of it becomes HTML, nothing is fetched, links lead out only as http(s).

import { lexer, type MarkedToken, type Token, type Tokens } from "marked";
import { make } from "./dom";

/** Without what stands before it for machines; as it is, if it is too strange to be taken apart. */
export function written(card: string): Node[] {
  const text = card.replace(/^---\n[^]*?\n---\n/, "");
  try {
    return blocks(lexer(text));
  } catch {
    return [make("pre", { tabIndex: 0 }, text)];
  }
}

function blocks(tokens: Token[]): Node[] {
  return (tokens as MarkedToken[]).flatMap((token) => {
    switch (token.type) {
      case "space":
      case "def":
      case "hr":
        return [];
      case "heading":
        return [make(token.depth < 2 ? "h3" : token.depth < 3 ? "h4" : "h5", {}, ...words(token.tokens))];
      case "list":
        return [list(token)];
      case "table":
        return [table(token)];
      case "code":
        return [make("pre", { tabIndex: 0 }, token.text)];
      case "blockquote":
        return [make("blockquote", {}, ...blocks(token.tokens))];
      case "text":
        return token.tokens ? words(token.tokens) : [text(token.text)];
      case "paragraph":
        return [make("p", {}, ...words(token.tokens))];
      default:
        return [make("p", {}, token.raw)];
    }
  });
}

function words(tokens: Token[] | undefined): Node[] {
  return ((tokens ?? []) as MarkedToken[]).flatMap((token): Node[] => {
    switch (token.type) {
      case "strong":
        return [make("strong", {}, ...words(token.tokens))];
      case "em":
        return [make("em", {}, ...words(token.tokens))];
      case "del":
        return words(token.tokens);
      case "codespan":
        return [make("code", {}, token.text)];
      case "br":
        return [make("br")];
      case "link":
        return /^https?:\/\//.test(token.href) ? [make("a", { href: token.href, rel: "noreferrer", target: "_blank" }, ...words(token.tokens))] : words(token.tokens);
      case "image": // it lies in the registry, beside the card
        return [];
      case "escape":
      case "text":
        return "tokens" in token && token.tokens ? words(token.tokens) : [text(token.text)];
      default:
        return [text(token.raw)];
    }
  });
}

function list({ ordered, items }: Tokens.List): Node {
  return make(ordered ? "ol" : "ul", {}, ...items.map((item) => make("li", {}, ...blocks(item.tokens))));
}

function table({ header, rows }: Tokens.Table): Node {
  const named = header.some((cell) => cell.text); // a table of facts has an empty head
  const head = make("thead", { hidden: !named }, make("tr", {}, ...header.map((cell) => make("th", { scope: "col" }, ...words(cell.tokens)))));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, ...words(cell.tokens)))));
  return make("div", { className: "wide", tabIndex: 0 }, make("table", {}, head, make("tbody", {}, ...body)));
}

/** Text in which the few entities that a card's author writes are characters. */
function text(content: string): Text {
  return document.createTextNode(content.replace(/&(amp|lt|gt|quot|#39|#124);/g, (_, name: string) => ENTITIES[name]!));
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'", "#124": "|" };
