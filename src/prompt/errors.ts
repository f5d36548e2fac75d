/** Why messages could not be rendered. */
export type PromptErrorCode =
  /** The model has no chat template and none was named. */
  | 'NO_CHAT_TEMPLATE'
  | 'UNKNOWN_TEMPLATE'
  /** A template file that cannot be read. */
  | 'INVALID_TEMPLATE'
  /** The template does not suit the model's tokenizer, or its Jinja source is broken or refused the messages. */
  | 'TEMPLATE_FAILED'
  /** Training would show the model another prompt than inference. */
  | 'PREFIX_MISMATCH'
  | 'INVALID_MESSAGES';

/** Messages that a template cannot render. */
export class PromptError extends Error {
  override readonly name = 'PromptError';
  readonly code: PromptErrorCode;
  /** The message at fault, where there is one: `messages[messageIndex]`. */
  readonly messageIndex: number | null;

  constructor(code: PromptErrorCode, message: string, messageIndex: number | null = null, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.messageIndex = messageIndex;
  }
}
