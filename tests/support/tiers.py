"""Tests whose cases are many: the quick tier runs those named here, `pytest -m slow` the others.

Each function keeps what its law needs to be seen red: one network, one mesh, one way; the rest is exhaustive.
"""

# All but GPT-BERT, whose own file states these laws on a smaller network, or whose code here is LTG-BERT's.
OTHER_NETWORKS = ("encoder-decoder", "decoder-only", "llama", "dual", "ltg_bert")

# By file and function, the ids of the cases that stay quick.
QUICK_CASES = {
    "checkpoints/test_from_torch.py::test_a_run_begins_with_a_safetensors_file": ("llama",),
    "checkpoints/test_warm_start.py::test_the_parameters_of_t5x_are_taken": ("all",),
    "decoding/test_autoregressive.py::test_greedy_text_is_that_of_a_slow_loop": ("decoder-True", "llama-False"),
    "evaluation/test_likelihood.py::test_a_score_is_a_slow_loop_s": (
        "Llama-0",
        "Llama-2",
        "DecoderOnly-6",
        "EncoderDecoder-12",
    ),
    "evaluation/test_shared_rows.py::test_shared_rows_are_read_once_and_change_no_score": ("pll",),
    "interop/test_hf_export.py::test_names_are_read_in_both_directions": (
        "t5_1_1-scanned",
        "llama-tied-scanned",
        "gpt_bert",
    ),
    "models/test_kv_cache.py::test_any_chunks_of_packed_documents_agree_with_one_forward_pass": ("llama", "ltg_bert"),
    "models/test_kv_cache.py::test_cache_rows_can_be_repeated_and_reordered": ("llama", "ltg_bert"),
    "models/test_kv_cache.py::test_extending_a_cache_leaves_the_old_one_unchanged": OTHER_NETWORKS,
    "models/test_kv_cache.py::test_the_encoders_input_is_encoded_once_or_read_as_a_prefix": OTHER_NETWORKS,
    "models/test_kv_cache.py::test_an_overfull_cache_gives_nan_or_an_error": OTHER_NETWORKS,
    "models/test_kv_cache.py::test_padded_prompts_then_token_by_token_agree_with_one_forward_pass": (
        *(f"left-causal-{network}" for network in ("encoder-decoder", "decoder-only", "llama", "ltg_bert")),
        "right-prefix-decoder-only",
    ),
    "models/test_layer_stack.py::test_remat_changes_neither_gradients_nor_dropout_noise": ("decoder-only",),
    "models/test_layer_stack.py::test_scan_gives_the_gradients_of_unrolled_layers": ("encoder-decoder",),
    "models/test_proof.py::test_what_differs_is_named": ("keys-gradient for keys-bfloat16",),
    "models/test_sizes.py::test_sizes_of_the_papers_have_their_counts": (
        "dual_470m-llama-51200-468700000.0-362700000.0",
        "ltg_bert_small-ltg_bert-16384-27700000.0-21261312",
        "gpt_bert_small-gpt_bert-8192-29892164-26565444",
    ),
    "models/test_sizes.py::test_sizes_of_t5_have_the_published_counts": ("tiny", "small", "base"),
    "models/test_t5.py::test_a_changed_token_moves_exactly_the_positions_that_attend_to_it": OTHER_NETWORKS,
    "models/test_t5.py::test_bfloat16_keeps_parameters_and_logits_in_float32": OTHER_NETWORKS,
    "models/test_t5.py::test_hidden_and_logits_compose_on_any_chunk": OTHER_NETWORKS,
    "models/test_tpu_biased.py::test_sharded_attention_agrees_with_unsharded": ("partitioning0-True",),
    "objectives/test_masked_objectives.py::test_uniform_logits_cost_log_v": ("causal0", "masked_diffusion0", "mix0"),
    "objectives/test_mixing.py::test_a_mix_in_blocks_is_the_mix": ("losses1-2",),
    "objectives/test_mixing.py::test_microbatches_change_nothing": ("0.9",),
    "objectives/test_mixing.py::test_the_loss_is_the_mean_over_rows_of_what_each_objective_costs_alone": (
        "(CrossEntropy(z_loss=0.001), MiLe(gamma=2.0, z_loss=0.0))",
    ),
    "objectives/test_seq2seq.py::test_padding_adds_nothing": ("t5",),
    "objectives/test_packed_pairs.py::test_a_packed_row_costs_what_its_pairs_cost_alone": ("llama",),
    "objectives/test_padding.py::test_rows_of_padding_add_nothing": ("causal by document", "diffusion", "spactor"),
    "optim/test_per_layer.py::test_a_stack_is_updated_as_its_layers_would_be": ("adafactor", "muon"),
    "parallel/test_logical_axes.py::test_scores_of_shards_are_those_of_the_whole": (
        "rows-loss0-row_totals",
        "positions-loss1-totals",
    ),
    "parallel/test_sharding.py::test_every_device_count_corrupts_alike": ("data 2, fsdp 2, tensor 2",),
    "recipes/test_papers.py::test_a_scale_file_gives_the_papers_size": (
        "dual+scale/dual",
        "spactor+scale/spactor",
    ),
    "reports/test_curves.py::test_a_run_is_drawn_against_what_is_asked_for": ("against2",),
    "reports/test_curves.py::test_a_run_of_any_length_is_drawn": ("1", "400"),
    "training/test_faults.py::test_a_full_disk_keeps_what_there_is_and_the_run_goes_on_when_there_is_room": (
        "in the middle of a checkpoint",
    ),
}


def is_exhaustive(node_id: str) -> bool:
    """True for a case that the quick tier leaves out; `node_id` is pytest's, tests/FILE::FUNCTION[CASE]."""
    name, _, case = node_id.removeprefix("tests/").partition("[")
    return name in QUICK_CASES and case.removesuffix("]") not in QUICK_CASES[name]
