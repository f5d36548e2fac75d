/** An example with its label mask in colour: what is learned stands out. */
import type { ExamplePreview, PreviewToken } from '../../../typescript/src/index.ts';
import { type Output, paint } from '../io.ts';
import { IGNORED, visible } from './visible.ts';

/** Two shades each for learned and ignored text, so that neighbouring tokens can be told apart. */
const LEARNED = [
  ['black', 'bgGreen'],
  ['black', 'bgGreenBright'],
] as const;
const GIVEN = ['gray', 'dim'] as const;

function paintToken(stream: Output, token: PreviewToken, index: number): string {
  const learned = token.label !== IGNORED;
  const style = learned ? [...(LEARNED[index % 2] ?? LEARNED[0])] : (GIVEN[index % 2] ?? GIVEN[0]);
  // A colour that runs over a line end fills the rest of the line on many terminals.
  const text = visible(token.text)
    .split('\n')
    .map((line) => (line === '' ? '' : paint(stream, style, line)))
    .join('\n');
  // A label that is not the token itself is shown: the end token that closes an answer, for one.
  const other = learned && token.label !== token.id ? paint(stream, 'magenta', `⟨${token.label}⟩`) : '';
  return text + other;
}

/** The example, then one line of counts. Without colour, learned stretches stand between ⟦ and ⟧. */
export function maskPreview(stream: Output, example: ExamplePreview): string {
  const coloured = paint(stream, 'red', 'x') !== 'x';
  let text = '';
  let open = false;
  example.tokens.forEach((token, index) => {
    const learned = token.label !== IGNORED;
    if (!coloured && learned !== open) text += learned ? '⟦' : '⟧';
    open = learned;
    text += paintToken(stream, token, index);
  });
  if (!coloured && open) text += '⟧';
  return `${text}\nexample ${example.index}: ${example.labelTokens} of ${example.tokens.length} tokens are learned`;
}
