/** The bytes of a file cannot be read on: what comes after this place is lost. */
export class ContainerError extends Error {
  override readonly name = 'ContainerError';
  /** A stable name of the kind of problem. */
  readonly reason: string;
  /** Line or example that it was found at; null: the file as a whole. */
  readonly number: number | null;

  constructor(reason: string, message: string, number: number | null = null) {
    super(message);
    this.reason = reason;
    this.number = number;
  }
}
