-- After a failed round that is tried again.
rollback;
