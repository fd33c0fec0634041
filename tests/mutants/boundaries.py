"""Mistakes at the borders of turns: in fitting templates, in encoding, and in what the card says."""

from tests.mutants.mutant import Mutant

TESTS = "tests/trainer/engine/test_boundaries.py::"
TEMPLATES = "trainer/engine/templates.py"
TOKENS = "trainer/engine/tokens.py"
USAGE = "trainer/engine/usage.py"

READ = f"{TESTS}test_what_is_trained_is_what_plain_transformers_reads_of_the_saved_folder"
CHANGED = f"{TESTS}test_only_the_end_of_a_last_answer_changes_in_a_template"
SPELT = f"{TESTS}test_what_people_spell_steers_nothing"
AGAIN = f"{TESTS}test_a_sampled_text_is_read_again_as_its_tokens"
LEFT = f"{TESTS}test_a_template_that_opens_otherwise_than_it_ends_is_left_and_told"
REWARDS = f"{TESTS}test_plain_transformers_reads_the_same_rewards"
CARD = f"{TESTS}test_the_cards_snippets_run_and_score_as_the_trainer_does"


BOUNDARIES = [
    Mutant(
        name="template-not-fitted",
        breaks="something stands behind the end that others read the reward at",
        file=TEMPLATES,
        old="return fitted if _changes_nothing_else(",
        new="return source if _changes_nothing_else(",
        tests=(READ, REWARDS),
    ),
    Mutant(
        name="bos-missing",
        breaks="a tokenizer that begins every text with BOS is read without one",
        file=TEMPLATES,
        old="return tokenizer.bos_token_id is not None and",
        new="return tokenizer.bos_token_id is None and",
        tests=(READ,),
    ),
    Mutant(
        name="bos-doubled",
        breaks="a template that writes BOS gets a second one",
        file=TEMPLATES,
        old="lacks_bos = puts_bos(tokenizer) and not opened.startswith(tokenizer.bos_token)",
        new="lacks_bos = puts_bos(tokenizer)",
        tests=(READ,),
    ),
    Mutant(
        name="generation-marks-lost",
        breaks="programs that learn from answers alone find none",
        file=TEMPLATES,
        old='(_written_with_marks() if marked else "{{ text_ }}")',
        new='"{{ text_ }}"',
        tests=(f"{TESTS}test_programs_that_learn_from_answers_alone_still_find_them",),
    ),
    Mutant(
        name="named-templates-not-fitted",
        breaks="a dictionary of templates stays as it was",
        file=TEMPLATES,
        old="{name: fit(tokenizer, each) for name, each in given.items()}",
        new="{name: each for name, each in given.items()}",
        tests=(f"{TESTS}test_every_named_template_is_fitted",),
    ),
    Mutant(
        name="whitespace-of-the-template-lost",
        breaks="Jinja takes the blanks beside the block that holds the text back",
        file=TEMPLATES,
        old="{{% set text_ +%}}",
        new="{{% set text_ %}}",
        tests=(READ,),
    ),
    Mutant(
        name="control-tokens-inferred",
        breaks="what a template writes into an answer (a thought) is text in answers",
        file=TEMPLATES,
        old="        tokenizer.chat_control_tokens = control_tokens_beyond_special(tokenizer)",
        new="        pass",
        tests=(f"{TESTS}test_tokens_that_are_not_special_and_end_turns_steer_as_well",),
    ),
    Mutant(
        name="people-steer",
        breaks="a control token that somebody spelt is one",
        file=TOKENS,
        old="if not any(self._control.search(each) for turn in messages for each in turn.values()):",
        new="if True:",
        tests=(SPELT, f"{TESTS}test_no_stage_lets_people_steer"),
    ),
    Mutant(
        name="answers-steer-where-no-template-writes-them",
        breaks="a control token in a response is one where the template is not followed",
        file=TOKENS,
        old="if not self._control.search(text):",
        new="if True:",
        tests=(LEFT,),
    ),
    Mutant(
        name="padding-is-an-end",
        breaks="plain transformers looks for the reward before the end of the turn",
        file=TOKENS,
        old="(None, tokenizer.eos_token_id, end_of_turn(tokenizer))",
        new="(None, tokenizer.eos_token_id)",
        tests=(f"{TESTS}test_padding_is_no_end_of_a_turn",),
    ),
    Mutant(
        name="bos-cut",
        breaks="a prompt that is cut has no BOS",
        file=TOKENS,
        old="bos = ids[:1] if",
        new="bos = [] if",
        tests=(f"{TESTS}test_a_prompt_that_is_cut_keeps_its_bos",),
    ),
    Mutant(
        name="sampled-texts-tidied",
        breaks="blanks before punctuation are lost from candidates",
        file=TOKENS,
        old="clean_up_tokenization_spaces=False",
        new="clean_up_tokenization_spaces=True",
        tests=(f"{TESTS}test_nothing_of_a_sampled_text_is_tidied",),
    ),
    Mutant(
        name="opening-stays-in-candidates",
        breaks="what the template writes before an answer is written twice",
        file=TOKENS,
        old="if list(row[: len(before)]) == before",
        new="if False",
        tests=(AGAIN,),
    ),
    Mutant(
        name="closing-stays-in-candidates",
        breaks="what the template writes before an end is written twice",
        file=TOKENS,
        old=".removesuffix(closing)",
        new="",
        tests=(AGAIN,),
    ),
    Mutant(
        name="template-drops-a-thought",
        breaks="part of a response is not learnt, and nobody is told",
        file=TOKENS,
        old="complete = _without_blanks(text) in _without_blanks(written)",
        new="complete = True",
        tests=(f"{TESTS}test_what_a_template_drops_is_learnt_all_the_same",),
    ),
    Mutant(
        name="response-by-its-text-alone",
        breaks="a response is tokenised apart from what the template writes around it",
        file=TOKENS,
        old="if follows and complete and",
        new="if False and complete and",
        tests=(READ,),
    ),
    Mutant(
        name="prompt-of-the-row-before",
        breaks="a response is put behind another conversation",
        file=TOKENS,
        old="if self._asked is None or self._asked[0] != messages:",
        new="if self._asked is None:",
        tests=(READ,),
    ),
    Mutant(
        name="plain-template-with-a-space",
        breaks="a space is part of an answer's first token",
        file=TEMPLATES,
        old="{{ '\\nassistant:\\n' }}",
        new="{{ '\\nassistant: ' }}",
        tests=(f"{TESTS}test_no_space_of_the_plain_template_is_part_of_an_answer",),
    ),
    Mutant(
        name="card-without-the-mean",
        breaks="the card's rewards are all higher",
        file=USAGE,
        old=" - model.config.reward_mean\n",
        new="\n",
        tests=(CARD,),
    ),
    Mutant(
        name="card-always-by-the-template",
        breaks="the card scores by a template that reads otherwise",
        file=USAGE,
        old="    right = plain_is_right(tokenizer)",
        new="    right = True",
        tests=(CARD,),
    ),
]
