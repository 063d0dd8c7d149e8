"""The cases of one process group, in the order in which every rank runs them."""

import agreement_cases as agreement
import rank_cases as rank

CASES = [
    rank.one_process_agrees,
    rank.empty_shards_agree,
    rank.any_dim_and_shape_agree,
    rank.masks_and_infinities_agree,
    rank.a_nan_stays_in_its_row,
    rank.half_precision_is_solved_in_single,
    rank.hard_is_the_exact_top_k,
    rank.certain_units_are_hard_too,
    rank.batches_are_one_simplex,
    rank.gradients_are_those_of_differences,
    rank.second_derivatives_are_those_of_differences,
    rank.forward_mode_is_the_same_derivative,
    rank.a_compiled_model_breaks_its_graph_here,
    rank.sums_of_one_rank_alone_are_seen,
    agreement.bad_arguments_raise_alike_on_every_rank,
    agreement.a_group_may_be_a_part_of_the_ranks,
    agreement.a_handful_of_sums_travels,
    agreement.hard_rows_settle_in_a_bounded_number_of_collectives,
    agreement.dtensors_keep_their_placements,
    agreement.dtensors_of_two_dimensions_agree,
    agreement.dtensors_that_do_not_fit_are_refused,
]
