/** Examples with their label masks as one page of HTML, which loads nothing and runs nothing. */
import type { ExamplePreview, PreviewExamplesResponse, PreviewToken } from '../../../typescript/src/index.ts';
import { escaped, htmlPage } from './html.ts';
import { IGNORED, visible } from './visible.ts';

const STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1f2328; --given: #57606a; --other: #8250df; --line: #d0d7de;
  --learned: #0a3d14; --a: #c6efce; --b: #a5dfb1; --g: #f3f4f6; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --given: #9198a1; --other: #d2a8ff; --line: #30363d;
  --learned: #d8f8df; --a: #12431f; --b: #1c5c2d; --g: #161b22; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
pre { margin: 0; padding: 1rem; border: 1px solid var(--line); border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .9rem/1.9 ui-monospace, monospace; }
span.token { unicode-bidi: isolate; color: var(--given); border-radius: .2rem; }
span.token:nth-of-type(even) { background: var(--g); }
mark { background: none; color: inherit; }
mark::before { content: "⟦"; } mark::after { content: "⟧"; }
mark span.token { color: var(--learned); background: var(--a); font-weight: 600; text-decoration: underline; text-underline-offset: .25em; }
mark span.token:nth-of-type(even) { background: var(--b); }
span.token:hover { outline: 2px solid currentColor; }
sub { color: var(--other); }
@media (forced-colors: active) { mark span.token { forced-color-adjust: auto; text-decoration: underline double; } }
`;

const isLearned = ({ label }: PreviewToken): boolean => label !== IGNORED;

/** A token's facts, one a line, as a browser shows them on hovering. */
function facts(token: PreviewToken): string {
  const { id, piece, label, segment, start, end } = token;
  // Quoted and escaped: spaces and line ends of a piece are seen, and do not look like facts.
  const lines = [
    `id ${id}`,
    `piece ${visible(JSON.stringify(piece))}`,
    `label ${label}${isLearned(token) ? (label === id ? ' (learned)' : ' (learned here, not the token itself)') : ' (not learned)'}`,
    `segment ${segment}`,
    `characters ${start} to ${end}`,
  ];
  return lines.join('\n');
}

function tokenElement(token: PreviewToken): string {
  const label = isLearned(token) && token.label !== token.id ? `<sub>⟨${token.label}⟩</sub>` : '';
  return `<span class="token" title="${escaped(facts(token))}">${escaped(visible(token.text))}${label}</span>`;
}

/** Tokens in a row; stretches that are learned are marked as one. */
function tokenElements(tokens: readonly PreviewToken[]): string {
  let html = '';
  let open = false;
  for (const token of tokens) {
    const learned = isLearned(token);
    if (learned !== open) html += learned ? '<mark>' : '</mark>';
    open = learned;
    html += tokenElement(token);
  }
  return open ? `${html}</mark>` : html;
}

const exampleSection = (example: ExamplePreview): string =>
  `<section>\n<h2>Example ${example.index}: ${example.labelTokens} of ${example.tokens.length} tokens are learned</h2>\n` +
  `<pre>${tokenElements(example.tokens)}</pre>\n</section>`;

/** The page. @param source What was looked at, for its heading. @param model Whose tokenizer and template. */
export function previewPage(response: PreviewExamplesResponse, source: string, model: string): string {
  const { template, examples } = response;
  const how = template === undefined ? 'exact ids' : `template ${template.id} ${template.version} ${template.hash}`;
  const heading = `<h1>${escaped(visible(source))}</h1>
<p>As <strong>${escaped(visible(model))}</strong> reads it, with ${escaped(visible(how))}. <mark><span class="token">Learned text</span></mark> is underlined
and stands between ⟦ and ⟧; the rest is read only. Each token tells its id, label and segment when it is pointed at. <sub>⟨7⟩</sub> behind a token: id 7
is learned at its place.</p>`;
  const body = [heading, ...examples.map(exampleSection)].join('\n');
  return htmlPage(visible(`What ${model} learns from ${source}`), STYLE, body);
}
