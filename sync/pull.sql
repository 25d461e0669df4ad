-- name: page
SELECT problem, device, wipe, last_seen_at, pending, entities, upserts, deletes, has_more, epoch, base::text, held, target::text, granting,
       lane, xid::text, seq
FROM sync_pull(%(token_hash)s, %(epoch)s, %(base)s::pg_snapshot, %(held)s::text[], %(target)s::pg_snapshot, %(granting)s::text[],
               %(lane)s, %(xid)s::text::xid8, %(seq)s, %(rows_max)s, %(bytes_max)s, %(many_scoped)s::text[]);
