-- name: page
SELECT problem, device, wipe, last_seen_at, pending, entities, upserts, deletes, has_more, epoch, base::text, floor::text,
       target::text, lane, xid::text, seq, witness
FROM sync_pull(%(token_hash)s, %(epoch)s, %(of_device)s, %(base)s::pg_snapshot, %(floor)s::pg_snapshot, %(target)s::pg_snapshot,
               %(lane)s, %(xid)s::text::xid8, %(seq)s, %(rows_max)s, %(bytes_max)s, %(scopes_max)s, %(many_scoped)s::text[],
               %(witness)s);
