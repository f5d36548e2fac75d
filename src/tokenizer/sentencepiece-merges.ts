/** Sentencepiece BPE has scores, not merges: the pair whose union has the highest score is merged first. */

const codePoints = (text: string): number => {
  let count = 0;
  for (const _ of text) count++;
  return count;
};

interface Merge {
  readonly left: string;
  readonly right: string;
  readonly score: number;
}

/**
 * Merges that give the same ids as the scores: every way to build a piece from two pieces, best score first.
 * As transformers' `generate_merges` orders them. Among equal scores (runs of spaces have one score) the longest left
 * piece comes first, so that the leftmost run grows, as sentencepiece's rule of the leftmost pair has it.
 *
 * @param vocab ids of the mergeable pieces (no control, byte or user-defined tokens)
 * @param scores by id
 */
export function sentencePieceMerges(vocab: ReadonlyMap<string, number>, scores: Float32Array): [string, string][] {
  const merges: Merge[] = [];
  for (const [piece, id] of vocab) {
    const score = scores[id] ?? 0;
    const local: { left: number; right: number; merge: Merge }[] = [];
    for (let cut = 1; cut < piece.length; cut++) {
      const unit = piece.charCodeAt(cut);
      if (unit >= 0xdc00 && unit <= 0xdfff) continue; // inside a surrogate pair
      const left = vocab.get(piece.slice(0, cut));
      const right = vocab.get(piece.slice(cut));
      if (left === undefined || right === undefined) continue;
      local.push({ left, right, merge: { left: piece.slice(0, cut), right: piece.slice(cut), score } });
    }
    local.sort((a, b) => a.left - b.left || a.right - b.right);
    for (const { merge } of local) merges.push(merge);
  }
  merges.sort(
    (a, b) => b.score - a.score || codePoints(b.left) - codePoints(a.left) || codePoints(b.right) - codePoints(a.right),
  );
  return merges.map(({ left, right }) => [left, right]);
}
