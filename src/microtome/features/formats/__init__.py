"""Feature files of other programs: what each can hold, how it is read and written. Needs no torch."""
