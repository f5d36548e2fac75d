/** Blocks of text to ids and labels: the only place where masks are made. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { PromptError } from './errors.ts';
import { IGNORED_LABEL, type RenderedExample, type Segment, type SegmentKind } from './renderer.ts';

/** A stretch of rendered text. Blocks are encoded one by one: no token crosses a border between blocks. */
export interface Block {
  readonly kind: SegmentKind;
  readonly messageIndex: number | null;
  /** May hold control tokens; none is found across a literal mark. */
  readonly text: string;
}

/** A rendered conversation. An answer block that no `end` block follows has no closing token of its own. */
export interface Layout {
  readonly blocks: readonly Block[];
  readonly literalMark: string;
  /** Ids in front of everything, such as BOS. */
  readonly prefixIds: readonly number[];
}

/** Which positions are learned: all, or the answers of some messages. */
export type Learned = 'all' | ReadonlySet<number>;

interface Draft {
  readonly kind: SegmentKind;
  readonly messageIndex: number | null;
  readonly text: string;
  readonly ids: Uint32Array;
  readonly weight: 0 | 1;
  labels: Int32Array | null;
}

function encodeBlocks(tokenizer: Tokenizer, layout: Layout, learned: Learned): Draft[] {
  const drafts: Draft[] = [];
  const add = (block: Block, ids: Uint32Array): void => {
    const isLearned = learned === 'all' || (block.messageIndex !== null && learned.has(block.messageIndex));
    drafts.push({ ...block, ids, weight: isLearned ? 1 : 0, labels: null });
  };
  if (layout.prefixIds.length > 0) {
    const text = layout.prefixIds.map((id) => tokenizer.idToPiece(id) ?? '').join('');
    add({ kind: 'prompt', messageIndex: null, text }, Uint32Array.from(layout.prefixIds));
  }
  let after: 'start' | 'text' | 'control' = 'start';
  for (const block of layout.blocks) {
    const ids = tokenizer.encode(block.text, { parseSpecial: true, literalMark: layout.literalMark, after });
    const last = ids.at(-1);
    if (last !== undefined) after = tokenizer.controlTokenIds.has(last) ? 'control' : 'text';
    add({ ...block, text: block.text.replaceAll(layout.literalMark, '') }, ids);
  }
  return drafts;
}

function eosTokenId(tokenizer: Tokenizer): number {
  if (tokenizer.eosTokenId !== null) return tokenizer.eosTokenId;
  throw new PromptError(
    'TEMPLATE_FAILED',
    'the template closes answers with EOS, but the tokenizer names no EOS token',
  );
}

/**
 * Makes sure that every learned answer's end is learned. Where no closing token follows it in the input, the next
 * position gets EOS as its label and keeps its input: what inference will see. After the last position EOS is added.
 */
function closeAnswers(tokenizer: Tokenizer, drafts: Draft[], learned: Learned): void {
  for (const [index, draft] of drafts.entries()) {
    if (draft.kind !== 'answer' || draft.weight === 0) continue;
    if (drafts[index + 1]?.kind === 'end') continue;
    const next = drafts.slice(index + 1).find((later) => later.ids.length > 0);
    if (!next) {
      const eos = eosTokenId(tokenizer);
      const text = tokenizer.idToPiece(eos) ?? '';
      drafts.push({
        kind: 'end',
        messageIndex: draft.messageIndex,
        text,
        ids: Uint32Array.of(eos),
        weight: 1,
        labels: null,
      });
      return;
    }
    if (learned === 'all') continue; // every position is already its own label
    next.labels ??= next.weight === 1 ? Int32Array.from(next.ids) : new Int32Array(next.ids.length).fill(IGNORED_LABEL);
    next.labels[0] = eosTokenId(tokenizer);
  }
}

function joinIds(segments: readonly Segment[]): Uint32Array {
  const ids = new Uint32Array(segments.reduce((sum, segment) => sum + segment.ids.length, 0));
  let at = 0;
  for (const segment of segments) {
    ids.set(segment.ids, at);
    at += segment.ids.length;
  }
  return ids;
}

const isNotEmpty = (segment: Segment): boolean => segment.ids.length > 0;

/** Encodes a conversation with its labels. */
export function assembleExample(tokenizer: Tokenizer, layout: Layout, learned: Learned): RenderedExample {
  const drafts = encodeBlocks(tokenizer, layout, learned);
  closeAnswers(tokenizer, drafts, learned);
  const segments: readonly Segment[] = drafts.filter(isNotEmpty);
  const inputIds = joinIds(segments);
  const labels = new Int32Array(inputIds.length).fill(IGNORED_LABEL);
  let at = 0;
  for (const segment of segments) {
    if (segment.labels) labels.set(segment.labels, at);
    else if (segment.weight === 1) labels.set(segment.ids, at);
    at += segment.ids.length;
  }
  return {
    segments,
    inputIds,
    labels,
    labelTokens: countLearned(labels),
  };
}

function countLearned(labels: Int32Array): number {
  let count = 0;
  for (const label of labels) if (label !== IGNORED_LABEL) count += 1;
  return count;
}

/** Encodes a conversation as context. */
export function assemblePrompt(
  tokenizer: Tokenizer,
  layout: Layout,
): { segments: readonly Segment[]; inputIds: Uint32Array } {
  const segments = encodeBlocks(tokenizer, layout, new Set()).filter(isNotEmpty);
  return { segments, inputIds: joinIds(segments) };
}
