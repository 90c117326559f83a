/* Fast leases with a changing roster, one exclusive resource. README.md says what is abstracted; `check` runs all variants.
 *
 * Peers 0 and 1 each make one claim (claim c is made by peer c); the others only answer. Every action is one step of one peer, as in
 * the code, where a node handles one input at a time. Names are those of the code in src/sudocode_coordination/core/.
 *
 * Time is a number of closed windows. Round r of claim c may be relied upon by its owner until its window closes (sent + hold);
 * who heard round r may forget it only after that (received + hold * K is later). `closed[c]` says how many windows are over.
 *
 * Bounds, each a -D: N peers, INIT (mask of those who begin on the branch and know each other), ROUNDS a claim, and how often
 * each of CRASH, JOIN, LEAVE, VANISH, DELETE happens. Choices: PROVISIONAL, PRIO, LOST, MESSAGES, LIVE. Faults: M_*. OLD_*: without a rule
 * that the model showed to be needed.
 */
#ifndef N
#define N 3
#endif
#define ALL ((1 << N) - 1)
#ifndef INIT
#define INIT ALL
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef CRASH
#define CRASH 0
#endif
#ifndef JOIN
#define JOIN 0
#endif
#ifndef LEAVE
#define LEAVE 0
#endif
#ifndef VANISH
#define VANISH 0
#endif
#ifndef DELETE
#define DELETE 0
#endif

/* Who may do so: peers that only answer are alike, so that it is enough to let some of them */
#ifndef CRASHERS
#define CRASHERS ALL
#endif
#ifndef LEAVERS
#define LEAVERS ALL
#endif
#ifndef VANISHERS
#define VANISHERS ALL
#endif

#ifndef LOOKERS
#define LOOKERS ALL
#endif
#ifndef SETTLERS
#define SETTLERS ALL
#endif
#ifndef HEARERS
#define HEARERS ALL
#endif

#ifdef SHORTEST
#define TEMPORARY       /* zero between steps; a search in breadth knows no hidden variables */
#else
#define TEMPORARY hidden
#endif

#define BIT(i) (1 << (i))
#define HAS(mask, i) (((mask) >> (i)) & 1)
#define COUNT(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1) + (((m) >> 4) & 1))
#define AT(i, x) ((i) * N + (x))
#define REC(j, c) ((j) * 2 + (c))

#if defined(M_QUORUM_ONE)
#define MAJORITY(voices, group) (COUNT((voices) & (group)) >= 1)
#elif defined(M_QUORUM_HALF)
#define MAJORITY(voices, group) (2 * COUNT((voices) & (group)) >= COUNT(group))
#else
#define MAJORITY(voices, group) (2 * COUNT((voices) & (group)) > COUNT(group))
#endif

#define NONE 0
#define PENDING 1
#define GRANTED 2
#define ENDED 3

/* --- claims: what the owner knows (Holding) --- */
byte st[2];
byte rnd[2];            /* Holding.round */
byte vr[2];             /* the round that valid_until comes from */
byte closed[2];         /* time: windows of rounds that are over */
byte acks[2];           /* Holding.acks, a mask */
byte gver[2];           /* version of the branch that the roster of the last quorum decision was read from (ghost) */
bit q[2];               /* grade: 1 quorum, 0 provisional */
bit blk[2];             /* the other claim is in Holding.blockers */
bit yl[2];              /* the other claim is in Holding.yielded */
bit wt[2];              /* the other claim is in Holding.waits */
bit first;              /* whose key is lower */
bit higher;             /* that one has a higher priority too */

/* --- claims: what others know (Claims) --- */
byte rec[N * 2];        /* Known.expiry, as the last round whose window it outlasts; 0: not known */
byte tomb[2];           /* who has a tombstone */

/* --- messages. By default a claim and its answer are one step, or the claim and the loss of its answer; README.md says why that is
 * enough for safety. MESSAGES: they are on their way, one of a kind between two peers; a newer one pushes out an older one. */
#if defined(LIVE) && !defined(MESSAGES)
#define MESSAGES
#endif
#ifdef MESSAGES
#define SLOT byte
#else
#define SLOT TEMPORARY byte
#endif
SLOT cl_round[2 * N];   /* Claim: round, 0 none */
SLOT cl_grade[2 * N];   /* 0 pending, 1 provisional, 2 quorum */
SLOT ak_round[2 * N];   /* Ack */
SLOT ak_told[2 * N];    /* Disclosed: remaining, as the round it outlasts; 0 none */
SLOT ak_yield[2 * N];
SLOT ak_counts[2 * N];
byte left;              /* who said goodbye */
byte bye[N];            /* Bye of that peer: who may still hear it */

/* --- the branch, and what each peer made of it (Roster, View) --- */
byte branch = INIT;
byte version;
byte alive = INIT;
byte memory = ALL;      /* LeaseBook.remembers */
byte mem[N];            /* Roster.members */
byte est[N];            /* Roster.established */
byte van[N];            /* Roster._vanished */
byte seen[N * N];       /* version at which that one was noticed to have come or to have vanished */
byte ver[N];            /* version last read */
byte fresh = INIT;      /* read recently enough */
byte listed = INIT;     /* own record seen in the last read */
byte dropped;           /* who was off the branch for so long that another may cease to count it */
byte due[N];            /* whom this peer may cease to count, if the next read does not show it */
byte looked = INIT;     /* Roster._looked */

TEMPORARY byte told, yields, r, g, x, k, present;

byte crashes = CRASH;
byte joins = JOIN;
byte leaves = LEAVE;
byte vanishings = VANISH;
byte deletions = DELETE;

#ifdef LIVE
byte sent[2];           /* peers that this round was sent to */
byte answers[2];        /* Holding.answers */
bit asked_again[2];
bit was_granted[2];
#define DONE (st[0] == ENDED && st[1] == ENDED)
#endif

/* Once one of the two claims has ended, nothing can be wrong any more: not looked at, but where all must be decided (LIVE) */
#ifdef LIVE
#define GOES_ON true
#else
#define GOES_ON (st[0] != ENDED && st[1] != ENDED)
#endif
#define ACTIVE(c) (st[c] == PENDING || st[c] == GRANTED)
#define VALID(c) (st[c] == GRANTED && vr[c] > closed[c])
#define BEFORE(c) (first == (c))
#define HIGHER(c) (higher && first == (c))

/* rank_of: quorum before provisional, then the key. `g` is the grade in the message: 1 provisional, 2 quorum */
#define RANKS(c, g, mine) (((g) == 2 && !q[mine]) || (((g) == 2) == q[mine] && BEFORE(c)))

/* OwnLeases._end, and the crash of an owner */
inline finish(c) {
    st[c] = ENDED; q[c] = 0; blk[c] = 0; yl[c] = 0; wt[c] = 0; acks[c] = 0; vr[c] = 0;
#ifdef LIVE
    sent[c] = 0; answers[c] = 0; asked_again[c] = 0;
#endif
}

/* Claims.forget at peer j; Holding.blocking drops what is no longer live */
inline forget(j, c) {
    rec[REC(j, c)] = 0;
    if
    :: j == 1 - c -> blk[1 - c] = 0; wt[1 - c] = 0
    :: else
    fi
}

/* OwnLeases._refresh, _renew_together, with _meet_locally */
inline refresh(c) {
    rnd[c]++; acks[c] = 0; yl[c] = 0; blk[c] = (rec[REC(c, 1 - c)] > 0);
#ifdef LIVE
    sent[c] = 0; answers[c] = 0; asked_again[c] = 0;
#endif
}

/* LeaseManager._on_claim with OwnLeases._judge: claim c, at peer j */
inline on_claim(j, c) {
    told = 0; yields = 0; r = cl_round[AT(c, j)]; g = cl_grade[AT(c, j)];
    cl_round[AT(c, j)] = 0; cl_grade[AT(c, j)] = 0;
    if
    :: HAS(tomb[c], j)
    :: else ->
        if
        :: r > rec[REC(j, c)] -> rec[REC(j, c)] = r
        :: else
        fi;
        if
        :: j == 1 - c && st[1 - c] == GRANTED && !VALID(1 - c) -> finish(1 - c); yields = 1
        :: j == 1 - c && st[1 - c] == PENDING ->
            if
#if defined(M_BOTH_YIELD)
            :: true ->
#elif defined(M_NONE_YIELDS)
            :: g > 0 ->
#else
            :: g > 0 || BEFORE(c) ->
#endif
                wt[1 - c] = 1; yields = 1
#ifdef M_BOTH_YIELD
                ; wt[1 - c] = 0
#endif
            :: else -> told = rnd[1 - c]
            fi
        :: j == 1 - c && VALID(1 - c) ->
            if
            :: g > 0 && RANKS(c, g, 1 - c) -> finish(1 - c); yields = 1
            :: g == 0 && HIGHER(c) -> finish(1 - c); yields = 1
#ifdef OLD_REMAINING
            :: else -> told = vr[1 - c]         /* valid_until: forgets the renewal that is under way */
#else
            :: else -> told = rnd[1 - c]        /* the later of valid_until and sent_at + hold_ms */
#endif
            fi
        :: else -> told = (j == 1 - c -> 0 : rec[REC(j, 1 - c)])
        fi
    fi;
#ifdef M_NO_DISCLOSURE
    told = 0;
#endif
    ak_round[AT(c, j)] = r; ak_told[AT(c, j)] = told; ak_yield[AT(c, j)] = yields;
#ifdef M_AMNESIA
    ak_counts[AT(c, j)] = 1;
#else
    ak_counts[AT(c, j)] = HAS(memory, j);
#endif
    told = 0; yields = 0; r = 0; g = 0
}

inline forget_ack(c, j) {
    ak_round[AT(c, j)] = 0; ak_told[AT(c, j)] = 0; ak_yield[AT(c, j)] = 0; ak_counts[AT(c, j)] = 0
}

/* Whoever answers says whom it counts. The asker counts them as well, as if they had vanished now; but those who told it goodbye. */
#if JOIN + LEAVE + VANISH + DELETE > 0 && !defined(OLD_ROSTER_UNTOLD)
#define TOLD_MEMBERS(i, j) mem[j] & ~mem[i] & ~BIT(i)
#else
#define TOLD_MEMBERS(i, j) 0
#endif
inline adopt(i, j) {
    present = TOLD_MEMBERS(i, j); x = 0;
    do
    :: x < N ->
        if
        :: HAS(present, x) && !(HAS(left, x) && !HAS(bye[x], i)) ->
            mem[i] = mem[i] | BIT(x); van[i] = van[i] | BIT(x); est[i] = est[i] | (est[j] & BIT(x)); seen[AT(i, x)] = version
        :: else
        fi;
        x++
    :: else -> break
    od;
    x = 0; present = 0
}

/* LeaseManager._on_ack: from peer j, about claim c */
inline on_ack(c, j) {
    if
    :: ACTIVE(c) ->
        if
        :: ak_told[AT(c, j)] > 0 && !HAS(tomb[1 - c], c) ->
            blk[c] = 1;
            if
            :: ak_told[AT(c, j)] > rec[REC(c, 1 - c)] -> rec[REC(c, 1 - c)] = ak_told[AT(c, j)]
            :: else
            fi
        :: else
        fi;
        if
        :: ak_round[AT(c, j)] == rnd[c] ->
            yl[c] = (yl[c] || ak_yield[AT(c, j)]);
#ifdef LIVE
            answers[c] = answers[c] | BIT(j);
#endif
            adopt(c, j);
            if
            :: ak_counts[AT(c, j)] -> acks[c] = acks[c] | BIT(j)
            :: else
            fi
        :: else
        fi
    :: else
    fi;
    forget_ack(c, j)
}

/* Holding.blocking */
#define BLOCKED(c) ((wt[c] || (blk[c] && !yl[c])) && rec[REC(c, 1 - c)] > 0)
#if defined(M_NO_WAITING)
#define HINDERED(c) (BLOCKED(c) && st[1 - (c)] == GRANTED)
#elif defined(M_RENEWAL)
#define HINDERED(c) (BLOCKED(c) && st[c] == PENDING)
#else
#define HINDERED(c) BLOCKED(c)
#endif

#ifdef OLD_VOICE
#define HEARD(c) acks[c]
#else
#define HEARD(c) (acks[c] & ~van[c])    /* who has vanished has weight, but no voice */
#endif
#define VOICES(c) (HEARD(c) | (HAS(memory, c) << (c)))
#ifdef M_JOINER_WEIGHT
#define MAJORITIES(c) MAJORITY(VOICES(c), mem[c])
#else
#define MAJORITIES(c) (MAJORITY(VOICES(c), mem[c]) && MAJORITY(VOICES(c), est[c]))
#endif
#ifdef M_OWN_RECORD
#define STEADY(c) HAS(fresh, c)
#else
#define STEADY(c) (HAS(fresh, c) && HAS(listed, c))
#endif
#ifdef M_REVIVAL
#define IN_TIME(c) (st[c] == PENDING || st[c] == GRANTED)
#else
#define IN_TIME(c) (st[c] == PENDING || VALID(c))
#endif

/* holdings.standing */
#define QUORUM(c) (rnd[c] > closed[c] && !HINDERED(c) && STEADY(c) && MAJORITIES(c))

/* OwnLeases._evaluate -> _grant, _extend */
inline grant(c, grade) {
    assert(st[c] == PENDING || VALID(c));                       /* S4: an ended lease is not revived */
    st[c] = GRANTED; q[c] = grade; vr[c] = rnd[c]; gver[c] = (grade -> ver[c] : 0);
#ifdef LIVE
    was_granted[c] = 1;
#endif
    assert(!(VALID(0) && VALID(1) && q[0] && q[1]))              /* S1: two quorum leases are not valid together */
}

/* Discovery.branch_read, Roster.update. At the first look that counts, all who are there are established; this peer itself only if it
 * is alone. Taking the very first look (OLD_FIRST_LOOK) shows an empty branch
 * to several peers. */
inline look(i, connected) {
#ifndef OLD_RETURN
    /* own record unseen for the window of Roster less the freshness of a read: begins like a newcomer */
    if
    :: HAS(dropped, i) -> dropped = dropped & ~BIT(i); looked = looked & ~BIT(i); mem[i] = BIT(i); est[i] = BIT(i); van[i] = 0; due[i] = 0
    :: else
    fi;
#endif
    present = (branch | connected) & ~BIT(i); x = 0;
    do
    :: x < N ->
        if
        :: x != i && HAS(present, x) && !HAS(mem[i], x) -> mem[i] = mem[i] | BIT(x); seen[AT(i, x)] = version
        :: x != i && HAS(present, x) && HAS(van[i], x) -> van[i] = van[i] & ~BIT(x); due[i] = due[i] & ~BIT(x)
        :: x != i && !HAS(present, x) && HAS(mem[i], x) && !HAS(van[i], x) ->
#ifdef M_DROP
            mem[i] = mem[i] & ~BIT(x); est[i] = est[i] & ~BIT(x)
#else
            van[i] = van[i] | BIT(x); seen[AT(i, x)] = version
#endif
        :: else
        fi;
        x++
    :: else -> break
    od;
    if
#ifdef OLD_FIRST_LOOK
    :: !HAS(looked, i) ->
#else
    :: !HAS(looked, i) && HAS(branch, i) ->
#endif
        looked = looked | BIT(i);
        est[i] = mem[i] & ~BIT(i);
        est[i] = (est[i] -> est[i] : BIT(i));
        seen[AT(i, i)] = version
    :: else
    fi;
    ver[i] = version; fresh = fresh | BIT(i);
    listed = (listed & ~BIT(i)) | (branch & BIT(i));
    present = 0; x = 0
}

/* The window of Roster is over for x at peer i: nobody relies any more on a roster read before the change was there to be seen. */
#define OLDER(c, v) (VALID(c) && q[c] && gver[c] < (v))
#define SETTLED(i, x) (!OLDER(0, seen[AT(i, x)]) && !OLDER(1, seen[AT(i, x)]))
inline settle(i, x) {
    k = 0;
    do
    :: k < N ->
        if
        :: ver[k] < seen[AT(i, x)] -> fresh = fresh & ~BIT(k)
        :: else
        fi;
        k++
    :: else -> break
    od;
    k = 0;
    if
    :: HAS(van[i], x) -> due[i] = due[i] & ~BIT(x); mem[i] = mem[i] & ~BIT(x); est[i] = est[i] & ~BIT(x); van[i] = van[i] & ~BIT(x)
    :: else -> est[i] = est[i] | BIT(x)
    fi;
    est[i] = (est[i] -> est[i] : BIT(i));
    seen[AT(i, x)] = 0
}

/* What a peer that is told goodbye, or begins a new life, no longer counts */
inline drop(i, x) {
    mem[i] = mem[i] & ~BIT(x); est[i] = est[i] & ~BIT(x); van[i] = van[i] & ~BIT(x); due[i] = due[i] & ~BIT(x);
    est[i] = (est[i] -> est[i] : BIT(i))
}

/* A claim that peer i was told of by another than its owner (Claims.learn) */
inline learn(i, c, until) {
    if
    :: i != c && !HAS(tomb[c], i) && until > 0 ->
        if
        :: until > rec[REC(i, c)] -> rec[REC(i, c)] = until
        :: else
        fi;
        if
        :: i == 1 - c && ACTIVE(1 - c) -> blk[1 - c] = 1
        :: else
        fi
    :: else
    fi
}

inline new_life(i) {
    if
    :: i < 2 && ACTIVE(i) -> finish(i)
    :: else
    fi;
    tomb[0] = tomb[0] & ~BIT(i); tomb[1] = tomb[1] & ~BIT(i);
    cl_round[AT(0, i)] = 0; cl_grade[AT(0, i)] = 0; cl_round[AT(1, i)] = 0; cl_grade[AT(1, i)] = 0;
    fresh = fresh & ~BIT(i); listed = listed & ~BIT(i)
#ifdef OLD_RESTART
    ; looked = looked & ~BIT(i);
    mem[i] = BIT(i); est[i] = BIT(i); van[i] = 0; due[i] = 0; ver[i] = 0; k = 0;
    do
    :: k < N -> seen[AT(i, k)] = 0; k++
    :: else -> break
    od;
    k = 0
#endif
}

#if N == 2
#define EACH(A) A(0) A(1)
#elif N == 3
#define EACH(A) A(0) A(1) A(2)
#elif N == 4
#define EACH(A) A(0) A(1) A(2) A(3)
#else
#define EACH(A) A(0) A(1) A(2) A(3) A(4)
#endif


#ifdef LIVE
#define RESTS          /* to stop before all is decided is a deadlock */
#else
#define RESTS end:
#endif

/* Owner to peer: OwnLeases._repeat, message_of, peer_up */
#ifdef LIVE
#define MAY_SEND(j) (!HAS(sent[i], j) && cl_round[AT(i, j)] == 0)
#define NOTE_SENT(j) sent[i] = sent[i] | BIT(j);
#else
#define MAY_SEND(j) true
#define NOTE_SENT(j)
#endif
#define GRADE(c) (st[c] == GRANTED -> 1 + q[c] : 0)
/* QUIET: a claim that its round has made a quorum lease is not repeated. It could only put more in the way of the other. */
#ifdef QUIET
#define SAYS_MORE (!(q[i] && vr[i] == rnd[i]))
#else
#define SAYS_MORE true
#endif
#define CAN_SEND(j) (j != i && SAYS_MORE && HAS(alive, i) && (st[i] == PENDING || VALID(i)) && HAS(mem[i], j))
#ifdef MESSAGES
#define SEND(j) \
    :: d_step { GOES_ON && CAN_SEND(j) && MAY_SEND(j) && (cl_round[AT(i, j)] != rnd[i] || cl_grade[AT(i, j)] != GRADE(i)) -> \
        printf("claim %d round %d grade %d to %d\n", i, rnd[i], GRADE(i), j); \
        NOTE_SENT(j) cl_round[AT(i, j)] = rnd[i]; cl_grade[AT(i, j)] = GRADE(i) } \
    :: d_step { GOES_ON && j != i && ak_round[AT(i, j)] > 0 && HAS(alive, i) -> ANSWERED(j) on_ack(i, j) }
#else
#define SEND(j) EXCHANGE(j, GRADE(i)) LATE(j, 0) LATE(j, 1)
#define LATE(j, g) EXCHANGE_IF(GRADE(i) > g, j, g)      /* sent before it was granted */
#define EXCHANGE(j, g) EXCHANGE_IF(true, j, g)
#ifdef LOST
#define UNHEARD(cond, j, g) \
    :: d_step { GOES_ON && CAN_SEND(j) && HAS(alive, j) && cond -> cl_grade[AT(i, j)] = g; MEET(j) printf("  (answer lost)\n"); forget_ack(i, j) }
#else
#define UNHEARD(cond, j, g)
#endif
#define EXCHANGE_IF(cond, j, g) \
    UNHEARD(cond, j, g) \
    :: d_step { GOES_ON && CAN_SEND(j) && HAS(alive, j) && cond -> cl_grade[AT(i, j)] = g; MEET(j) ANSWERED(j) on_ack(i, j) }
#define MEET(j) \
        cl_round[AT(i, j)] = rnd[i]; \
        printf("claim %d round %d grade %d reaches %d, which knows of the other %d\n", \
            i, rnd[i], cl_grade[AT(i, j)], j, rec[REC(j, 1 - i)]); \
        on_claim(j, i);
#endif
#define ANSWERED(j) \
        printf("claim %d round %d acknowledged by %d: discloses %d, yields %d, counts %d\n", \
            i, ak_round[AT(i, j)], j, ak_told[AT(i, j)], ak_yield[AT(i, j)], ak_counts[AT(i, j)]);
#define SETTLE(j) \
    :: d_step { GOES_ON && HAS(SETTLERS, i) && HAS(alive, i) && HAS(looked, i) && HAS(mem[i], j) && ((HAS(due[i], j) && HAS(fresh, i)) || (!HAS(van[i], j) && !HAS(est[i], j))) && SETTLED(i, j) -> \
        printf("window over for %d at %d\n", j, i); settle(i, j) }
/* The window less the freshness of a read: whoever ceases to count j must have read after this, and j, back later, knows it was off */
#define OVERDUE(j) \
    :: d_step { GOES_ON && HAS(SETTLERS, i) && HAS(alive, i) && HAS(van[i], j) && !HAS(due[i], j) && SETTLED(i, j) -> \
        printf("%d has been off for long, at %d\n", j, i); \
        due[i] = due[i] | BIT(j); fresh = fresh & ~BIT(i); dropped = dropped | (BIT(j) & ~branch) }
#define HEAR_BYE(j) \
    :: d_step { GOES_ON && j != i && HAS(bye[j], i) && HAS(alive, i) -> \
        printf("%d hears goodbye of %d\n", i, j); \
        bye[j] = bye[j] & ~BIT(i); drop(i, j); HAND_OVER(j) HEAR_END(j) }
#define HEAR_END(j) \
        if \
        :: j < 2 && st[(j) % 2] == ENDED -> tomb[(j) % 2] = tomb[(j) % 2] | BIT(i); forget(i, (j) % 2) \
        :: else \
        fi;
#ifdef OLD_BYE
#define HAND_OVER(j)
#else
#define HAND_OVER(j) learn(i, 0, rec[REC(j, 0)]); learn(i, 1, rec[REC(j, 1)]);
#endif

proctype owner(byte i) {
RESTS
    do
    :: d_step { GOES_ON && st[i] == NONE && HAS(alive, i) -> printf("claim %d asked\n", i); st[i] = PENDING; refresh(i) }
#ifndef LIVE
    :: d_step { GOES_ON && (st[i] == PENDING || VALID(i)) && rnd[i] < ROUNDS -> printf("claim %d round %d\n", i, rnd[i] + 1); refresh(i) }
#endif
    EACH(SEND)
    :: d_step { GOES_ON && IN_TIME(i) && QUORUM(i) && !(st[i] == GRANTED && q[i] && vr[i] == rnd[i] && gver[i] == ver[i]) ->
        printf("claim %d QUORUM by round %d, voices %d of members %d, established %d\n", i, rnd[i], VOICES(i), mem[i], est[i]);
        grant(i, 1) }
#ifdef PROVISIONAL
    /* whoever else is suspected or gone: any failure detector */
    :: d_step { GOES_ON && IN_TIME(i) && rnd[i] > closed[i] && !(st[i] == GRANTED && !q[i] && vr[i] == rnd[i]) ->
        printf("claim %d provisional by round %d\n", i, rnd[i]); grant(i, 0) }
#endif
#ifdef LIVE
    :: d_step { GOES_ON && VALID(i) -> printf("claim %d released\n", i); finish(i) }
    /* OwnLeases._ask_again */
    :: d_step { GOES_ON && BLOCKED(i) && (st[i] == GRANTED || BEFORE(i)) && st[1 - i] == PENDING && HAS(answers[i], 1 - i) && !asked_again[i] ->
        asked_again[i] = 1; sent[i] = sent[i] & ~BIT(1 - i) }
    :: DONE -> assert(was_granted[0] && was_granted[1]); break
#endif
    od
}

#define ON_CLAIM(c) \
    :: d_step { GOES_ON && c != i && cl_round[AT(c, i)] > 0 && HAS(alive, i) -> \
        printf("claim %d round %d reaches %d, which knows of the other %d\n", c, cl_round[AT(c, i)], i, rec[REC(i, 1 - c)]); \
        on_claim(i, c) }
#ifdef M_EARLY
#define OVER(c) true
#else
#define OVER(c) (rec[REC(i, c)] <= closed[c])
#endif
#define EXPIRE(c) \
    :: d_step { GOES_ON && c != i && rec[REC(i, c)] > 0 && OVER(c) && HAS(alive, i) -> printf("claim %d expires at %d\n", c, i); forget(i, c) }
#define ON_END(c) \
    :: d_step { GOES_ON && c != i && st[c] == ENDED && !HAS(tomb[c], i) && HAS(alive, i) -> \
        printf("end of claim %d reaches %d\n", c, i); tomb[c] = tomb[c] | BIT(i); forget(i, c) }

proctype peer(byte i) {
RESTS
    do
#ifdef MESSAGES
    ON_CLAIM(0) ON_CLAIM(1)
#endif
#ifdef LIVE
    ON_END(0) ON_END(1)
#else
    EXPIRE(0) EXPIRE(1)
#endif
#if JOIN + LEAVE + VANISH + DELETE + CRASH > 0
    :: d_step { GOES_ON && HAS(LOOKERS, i) && HAS(alive, i) && (ver[i] != version || !HAS(fresh, i)) -> look(i, 0);
        printf("%d reads version %d: branch %d, members %d, established %d, vanished %d\n", i, version, branch, mem[i], est[i], van[i]) }
#ifdef OLD_CONNECTED
    /* connected peers are on the roster whatever the branch says */
    :: d_step { GOES_ON && HAS(LOOKERS, i) && HAS(alive, i) && (ver[i] != version || !HAS(fresh, i)) -> look(i, mem[i] & ~van[i]);
        printf("%d, connected to all, reads version %d: branch %d, members %d\n", i, version, branch, mem[i]) }
#endif
    /* compare-and-swap: on top of what was read, or not at all */
    :: d_step { GOES_ON && HAS(alive, i) && HAS(fresh, i) && ver[i] == version && !HAS(branch, i) ->
        branch = branch | BIT(i); version++; printf("%d publishes version %d\n", i, version) }
    EACH(SETTLE)
#if VANISH + LEAVE + DELETE > 0
    EACH(OVERDUE)
#endif
#endif
#if CRASH > 0
    /* with its disk: stored claims, StoredClaim */
    :: d_step { GOES_ON && crashes > 0 && HAS(CRASHERS, i) && HAS(alive, i) -> crashes--; new_life(i); printf("%d restarts\n", i) }
    /* without, or after a boot: LeaseBook.memory_lost */
    :: d_step { GOES_ON && crashes > 0 && HAS(CRASHERS, i) && HAS(alive, i) -> crashes--; new_life(i); rec[REC(i, 0)] = 0; rec[REC(i, 1)] = 0;
        memory = memory & ~BIT(i); printf("%d restarts without memory\n", i) }
#endif
#if LEAVE > 0
    :: d_step { GOES_ON && leaves > 0 && HAS(LEAVERS, i) && HAS(alive, i) -> leaves--; printf("%d leaves\n", i); new_life(i); alive = alive & ~BIT(i); left = left | BIT(i);
        bye[i] = HEARERS & ~BIT(i); branch = branch & ~BIT(i); version++ }
    EACH(HEAR_BYE)
#endif
#if JOIN > 0
    :: d_step { GOES_ON && joins > 0 && !HAS(alive, i) && mem[i] == 0 -> joins--; printf("%d joins\n", i); alive = alive | BIT(i);
        mem[i] = BIT(i); est[i] = BIT(i) }
#endif
#ifdef LIVE
    :: DONE -> break
#endif
    od
}

#define VANISHES(j) \
    :: d_step { GOES_ON && vanishings > 0 && HAS(VANISHERS, j) && HAS(branch, j) -> vanishings--; branch = branch & ~BIT(j); version++; \
        printf("record of %d vanishes: version %d\n", j, version) }

proctype world() {
RESTS
    do
#ifndef LIVE
    :: d_step { GOES_ON && closed[0] < rnd[0] && closed[0] < ROUNDS - 1 -> closed[0]++; printf("window %d of claim 0 is over\n", closed[0]) }
    :: d_step { GOES_ON && closed[1] < rnd[1] && closed[1] < ROUNDS - 1 -> closed[1]++; printf("window %d of claim 1 is over\n", closed[1]) }
#endif
#if VANISH > 0
    EACH(VANISHES)
#endif
#if DELETE > 0
    :: d_step { GOES_ON && deletions > 0 && branch -> deletions--; branch = 0; version++; printf("branch deleted: version %d\n", version) }
#endif
#ifdef LIVE
    :: DONE -> break
#endif
    :: false
    od
}

#define BEGIN(j) \
    if \
    :: HAS(INIT, j) -> mem[j] = INIT; est[j] = INIT \
    :: else \
    fi;
#define RUN(j) run peer(j);

init {
    byte i;
    atomic {
        EACH(BEGIN)
#ifndef FIRST0
        if
        :: first = 0
        :: first = 1
        fi;
#endif
#ifdef PRIO
        if
        :: higher = 0
        :: higher = 1
        fi;
#endif
        run owner(0); run owner(1);
        EACH(RUN)
        run world()
    }
}
