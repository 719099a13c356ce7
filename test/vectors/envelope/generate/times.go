package main

func (b *book) times() {
	at := func(now int64) func(*story) { return func(s *story) { s.receiver.Now = now } }
	for name, now := range map[string]int64{
		"one-millisecond-before-the-end": t0 + window - 1, "at-the-end": t0 + window, "same-millisecond": t0,
		"one-millisecond-before-the-limit-ahead": t0 - ahead + 1, "at-the-limit-ahead": t0 - ahead,
	} {
		b.accept("time-"+name, "T1", "the message is fresh: "+name, call, at(now))
	}
	b.refuse("time/one-millisecond-past-the-end", "T1", "stale", "one millisecond too old", call, at(t0+window+1))
	b.refuse("time/a-day-old", "T1", "stale", "a day old", call, at(t0+24*hour))
	b.refuse("time/ts-of-nought", "T1", "stale", "sent in 1970", call, func(s *story) { s.letter.set("ts", "0") })
	b.refuse("time/ts-in-seconds", "T1", "stale", "sent in seconds, which are long ago", call, func(s *story) { s.letter.set("ts", itoa(t0/second)) })
	b.refuse("time/one-millisecond-past-the-limit-ahead", "T2", "future", "one millisecond too far ahead", call, at(t0-ahead-1))
	b.refuse("time/a-year-ahead", "T2", "future", "a year ahead", call, at(t0-365*24*hour))
	b.refuse("time/ts-at-its-highest", "T2", "future", "the highest number there is", call, func(s *story) { s.letter.set("ts", "9007199254740991") })
	narrow := func(now int64) func(*story) {
		return func(s *story) { s.receiver.Past, s.receiver.Ahead, s.receiver.Now = minute, second, now }
	}
	b.accept("time-narrow-at-the-end", "T1", "a receiver with a window of a minute", call, narrow(t0+minute))
	b.accept("time-narrow-at-the-limit-ahead", "T2", "a receiver that takes a second ahead", call, narrow(t0-second))
	b.refuse("time/narrow-past-the-end", "T1", "stale", "too old for a window of a minute", call, narrow(t0+minute+1))
	b.refuse("time/narrow-past-the-limit-ahead", "T2", "future", "too far ahead for a receiver that takes a second", call, narrow(t0-second-1))

	budget := func(now int64) func(*story) {
		return func(s *story) {
			s.letter.set("dl", "30000")
			s.receiver.Now = now
		}
	}
	b.accept("budget-whole", "T3", "nothing of the budget has passed", call, budget(t0))
	b.accept("budget-one-millisecond-left", "T3", "the last millisecond of the budget", call, budget(t0+30*second-1))
	b.accept("budget-clock-behind", "T3", "a receiver whose clock is behind gives no more than the budget", call, budget(t0-10*second))
	b.refuse("deadline/at-the-end", "T3", "deadline", "the whole budget has passed", call, budget(t0+30*second))
	b.refuse("deadline/past-the-end", "T3", "deadline", "more than the budget has passed", call, budget(t0+30*second+1))
	b.refuse("deadline/one-millisecond", "T3", "deadline", "a budget of a millisecond, a millisecond later", call, func(s *story) {
		s.letter.set("dl", "1")
		s.receiver.Now = t0 + 1
	})
	b.refuse("deadline/of-a-reply", "T3", "deadline", "a reply that says how long it counts", reply, budget(t0+31*second))
}
