-- What has to look at all rows: in a transaction of its own, without the locks of 0016, so that all others go on.

ALTER TABLE stock_adjustments VALIDATE CONSTRAINT stock_adjustments_reason_check;
ALTER TABLE stock_adjustments VALIDATE CONSTRAINT stock_adjustments_of_order;
ALTER TABLE stock_ledger VALIDATE CONSTRAINT stock_ledger_outcome_check;
ALTER TABLE dead_letters VALIDATE CONSTRAINT dead_letters_stage_check;
ALTER TABLE dead_letters VALIDATE CONSTRAINT dead_letters_of_cancellations;
ALTER TABLE event_batches VALIDATE CONSTRAINT event_batches_of_one_kind;
