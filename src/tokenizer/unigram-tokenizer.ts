/** The tokenizer of a `tokenizer.json` with a unigram model. */
import { BaseTokenizer } from './base-tokenizer.ts';
import { pieceDecoder } from './byte-decoder.ts';
import { ControlSplitter } from './control-splitter.ts';
import { controlTokens } from './control-tokens.ts';
import type { UnigramDefinition } from './definition.ts';
import { library, NO_MODEL } from './library.ts';
import { precompiledNormalizer } from './precompiled.ts';
import { UNKNOWN_PENALTY, UnigramSegmenter } from './sentencepiece/unigram.ts';
import { type ComponentJson, flattenComponent } from './tokenizer-json.ts';
import { charsmapOf, type UnigramTokenizerJson } from './unigram-json.ts';

const encoder = new TextEncoder();

type TextRule = (text: string) => string;

function normalizerOf(component: ComponentJson): TextRule {
  if (component.type === 'Precompiled') return precompiledNormalizer(charsmapOf(component));
  if (component.type === 'Strip') {
    // Unicode's White_Space, which is not JavaScript's.
    const [left, right] = [component.strip_left === true, component.strip_right === true];
    return (text) => {
      const cut = left ? text.replace(/^\p{White_Space}+/u, '') : text;
      return right ? cut.replace(/\p{White_Space}+$/u, '') : cut;
    };
  }
  const { normalizer } = new library.Tokenizer(
    {
      added_tokens: [],
      normalizer: component,
      pre_tokenizer: null,
      post_processor: null,
      decoder: null,
      model: NO_MODEL,
    },
    {},
  );
  return normalizer ?? ((text) => text);
}

/** Files of early versions say `add_prefix_space` instead. */
const prependScheme = (metaspace: ComponentJson | undefined): unknown =>
  metaspace?.add_prefix_space === false ? 'never' : (metaspace?.prepend_scheme ?? 'always');

/** A run's words. `prefixed`: the run starts a text. */
type Words = (text: string, prefixed: boolean) => string[];

function wordsOf(members: readonly ComponentJson[]): Words {
  const metaspace = members.at(-1);
  const symbol = typeof metaspace?.replacement === 'string' ? metaspace.replacement : '▁';
  const splitsWhiteSpace = members[0]?.type === 'WhitespaceSplit';
  const splits = metaspace?.split !== false;
  const scheme = prependScheme(metaspace);
  const boundary = new RegExp(`(?=${symbol.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')})`, 'u');
  return (text, prefixed) => {
    const parts = splitsWhiteSpace ? (text.match(/\P{White_Space}+/gu) ?? []) : [text];
    return parts.flatMap((part, index) => {
      // White space in front starts a word anew.
      const isFirst = index === 0 && text.startsWith(part);
      const isMarked = isFirst ? prefixed && scheme !== 'never' : scheme === 'always';
      const marked = part.replaceAll(' ', symbol);
      const whole = isMarked && !marked.startsWith(symbol) ? symbol + marked : marked;
      return splits ? whole.split(boundary) : [whole];
    });
  };
}

export class UnigramTokenizer extends BaseTokenizer {
  readonly encoder = 'javascript';
  /** Added tokens that are text. */
  readonly #ordinary: ControlSplitter;
  readonly #prefixAfterAdded: boolean;
  readonly #normalizers: readonly TextRule[];
  readonly #words: Words;
  readonly #segmenter: UnigramSegmenter;
  readonly #unkId: number;
  readonly #byteIds: readonly number[] | null;

  /** @throws TokenizerError where the definition uses what is not supported */
  constructor(definition: UnigramDefinition) {
    const { json } = definition;
    const { vocab } = json.model;
    const entries = vocab.map(([piece], id) => [piece, id] as const);
    const control = controlTokens(definition, json.added_tokens, entries);
    const members = flattenComponent(json.pre_tokenizer, 'pretokenizers');
    const scheme = prependScheme(members.at(-1));
    const pieces: (string | undefined)[] = vocab.map(([piece]) => piece);
    for (const token of json.added_tokens) pieces[token.id] = token.content;
    super({
      conventions: definition,
      pieces,
      added: json.added_tokens,
      control,
      decoder: pieceDecoder(json.decoder),
      prefixAfterControl: scheme === 'always',
    });
    this.#normalizers = flattenComponent(json.normalizer, 'normalizers').map(normalizerOf);
    this.#words = wordsOf(members);
    this.#unkId = json.model.unk_id ?? 0;
    this.#byteIds = byteIds(json);
    this.#segmenter = segmenterOf(json, this.controlTokenIds);
    this.#ordinary = new ControlSplitter(json.added_tokens.filter((token) => !this.controlTokenIds.has(token.id)));
    this.#prefixAfterAdded = scheme === 'always';
  }

  protected override encodeRun(text: string, prefixed: boolean, ids: number[]): void {
    this.#ordinary.split(text).forEach((section, index) => {
      if ('id' in section) ids.push(section.id);
      else this.#encodeText(section.text, index === 0 ? prefixed : this.#prefixAfterAdded, ids);
    });
  }

  #encodeText(text: string, prefixed: boolean, ids: number[]): void {
    const normalized = this.#normalizers.reduce((changed, rule) => rule(changed), text);
    if (normalized === '') return;
    for (const word of this.#words(normalized, prefixed)) this.#encodeWord(word, ids);
  }

  #encodeWord(word: string, ids: number[]): void {
    let isUnknown = false;
    this.#segmenter.segment(word, {
      piece: (id) => {
        ids.push(id);
        isUnknown = false;
      },
      unknown: (codePoint) => {
        if (this.#byteIds !== null) {
          for (const byte of encoder.encode(String.fromCodePoint(codePoint))) ids.push(this.#byteIds[byte] as number);
        } else if (!isUnknown) {
          // A run of unknown characters is one UNK.
          ids.push(this.#unkId);
        }
        isUnknown = true;
      },
    });
  }
}

/** Null where not every byte has a piece: then there is UNK only. */
function byteIds({ model }: UnigramTokenizerJson): number[] | null {
  if (model.byte_fallback !== true) return null;
  const known = new Map(model.vocab.map(([piece], id) => [piece, id]));
  const names = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const ids = names.map((name) => known.get(name));
  return ids.includes(undefined) ? null : (ids as number[]);
}

/** Sums are of 64 bits and never set back, unlike sentencepiece's; all pieces count for the worst score. */
function segmenterOf({ model }: UnigramTokenizerJson, control: ReadonlySet<number>): UnigramSegmenter {
  const scores = Float64Array.from(model.vocab, ([, score]) => score);
  const pieces = model.vocab.flatMap(([piece], id) => (control.has(id) ? [] : [[piece, id] as const]));
  const lowest = scores.reduce((least, score) => Math.min(least, score));
  return new UnigramSegmenter(pieces, scores, lowest - UNKNOWN_PENALTY);
}
