-- name: blockers
-- Who keeps a logical slot from being made: transactions that write, also prepared ones, in any database. $1 our walsender.
SELECT string_agg(who, '; ') FROM (
    SELECT who FROM (
        SELECT format('pid %s (%s, %s) since %s s', pid, coalesce(usename, '?'), coalesce(nullif(left(application_name, 40), ''), 'no application_name'),
                      greatest(0, extract(epoch FROM clock_timestamp() - xact_start))::int) AS who, xact_start AS since
          FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> $1::int AND backend_type <> 'walsender'
        UNION ALL
        SELECT format('prepared transaction %L (%s) since %s s', left(gid, 60), owner, greatest(0, extract(epoch FROM clock_timestamp() - prepared))::int), prepared
          FROM pg_prepared_xacts) a
     ORDER BY since LIMIT 8) b
