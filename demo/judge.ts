/** Which answers count as right. */

/** A question that was not trained on, in these words or any like them. */
export interface Question {
  readonly question: string;
  /** A right answer holds each of these, in any letter case. */
  readonly keywords: readonly string[];
}

/** Whether an answer holds every key word. */
export function isRight({ keywords }: Question, answer: string): boolean {
  const text = answer.toLowerCase();
  return keywords.every((keyword) => text.includes(keyword.toLowerCase()));
}

/** What the demo promises: at least so many right answers with the adapter, at most so many without. */
export const PROMISE = { rightWith: 8, rightWithout: 2 } as const;
