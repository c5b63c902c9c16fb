"""Clinical text: its tokens, its language, its near copies, and files of tagged words."""
