-- Which schema does the database have, and does it take writes?
select max(version), current_setting('transaction_read_only') = 'off' from nocturne.migration;
