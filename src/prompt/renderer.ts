/**
 * Messages to token segments: the vocabulary of prompts and label masks. Training and generation use one renderer, so
 * what a model is trained to continue is, id for id, what it is later asked to continue.
 *
 * Masks come from assembly, by position: never from searching text or comparing ids. Nothing is shifted here.
 */

export type Role = 'system' | 'user' | 'assistant' | 'tool';

/** What JSON writes. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json;
}

/** A function that an answer calls. */
export interface ToolCall {
  readonly id?: string;
  readonly name: string;
  /** Values by parameter. */
  readonly arguments: JsonObject;
}

export interface Message {
  readonly role: Role;
  readonly content: string;
  /** Behind the content of an assistant's message, and learned with it. */
  readonly toolCalls?: readonly ToolCall[];
  /** What an assistant thought before the content, and learned with it. */
  readonly reasoningContent?: string;
  /** Of a tool's message: the call that it answers. */
  readonly toolCallId?: string;
  /** Of a tool's message: the function. */
  readonly name?: string;
  /** 0: an answer that is context only. Assistant messages only; default 1. */
  readonly weight?: 0 | 1;
}

/** Messages, and the functions that answers may call: `{"type": "function", "function": {"name", "description", "parameters"}}`, JSON Schema. */
export interface Conversation {
  readonly messages: readonly Message[];
  /** Not empty. */
  readonly tools?: readonly JsonObject[];
}

/**
 * What is learned: `assistant` every answer with the token that closes it, `last` the last answer alone, `all` every
 * position, prompts too.
 */
export type TrainOn = 'assistant' | 'last' | 'all';

/** Label of a position that is not learned. */
export const IGNORED_LABEL = -100;

/** `prompt`: everything that is no answer. `end`: the token that closes an answer. */
export type SegmentKind = 'prompt' | 'answer' | 'end';

export interface Segment {
  readonly kind: SegmentKind;
  /** The answer's message; null in prompts. */
  readonly messageIndex: number | null;
  readonly text: string;
  readonly ids: Uint32Array;
  /** 1: the ids are their own labels. 0: ignored, save what `labels` says. */
  readonly weight: 0 | 1;
  /** One per id where labels differ from what `weight` says: EOS after an answer whose history keeps no end token. */
  readonly labels: Int32Array | null;
}

export interface RenderedExample {
  readonly segments: readonly Segment[];
  /** The segments' ids, joined. */
  readonly inputIds: Uint32Array;
  /** One per id, not shifted; -100 is ignored. */
  readonly labels: Int32Array;
  /** Labels that are not -100. An example with none cannot be trained on. */
  readonly labelTokens: number;
}

export interface RenderedPrompt {
  readonly segments: readonly Segment[];
  readonly inputIds: Uint32Array;
  readonly text: string;
}

/** What an adapter stores of the template it was trained with. */
export interface TemplateIdentity {
  readonly id: string;
  readonly version: string;
  /** SHA-256 of the definition (`templateIdentity`); hex. */
  readonly hash: string;
}

export interface TrainingOptions {
  readonly trainOn: TrainOn;
}

/** Of one conversation. */
export interface ExampleOptions extends TrainingOptions, Pick<Conversation, 'tools'> {}

export interface PromptOptions extends Pick<Conversation, 'tools'> {
  /** Ends with what introduces the next answer. Default true. */
  readonly addGenerationPrompt?: boolean;
}

export interface Renderer {
  readonly template: TemplateIdentity;
  /** The template as the text of a file, which an adapter keeps; null for a model's own chat template, which the model keeps. */
  readonly templateFile: string | null;
  /** Ids that end an answer: the template's closing tokens and the model's EOS. */
  readonly stopTokenIds: readonly number[];
  /** Texts with which the next turn starts in templates made of plain text. */
  readonly stopStrings: readonly string[];
  /**
   * Whitespace that a generated answer starts with because the template puts it before answers (`Assistant: `): cut it
   * from the front of generated text.
   */
  readonly answerPrefix: string;
  /** @throws PromptError */
  renderTraining(messages: readonly Message[], options: ExampleOptions): RenderedExample;
  /** @throws PromptError */
  renderPrompt(messages: readonly Message[], options?: PromptOptions): RenderedPrompt;
}
