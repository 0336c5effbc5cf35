//! Rules that nft and iptables-nft loaded are printed as those tools print them; whether the verdict on them is right is the business of
//! `campaign`. Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_possible_truncation, clippy::format_push_string)]

mod render;
