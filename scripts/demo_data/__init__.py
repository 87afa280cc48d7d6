"""The generators behind the embedded sample: one file a category, each pair's truth checked by a program.

In every category the same kinds of answers stand on both sides: what is right for one prompt is wrong for another. So the label can't be told from the answers
alone, by length, wording or markup; one has to read the prompt.
"""
