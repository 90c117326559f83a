/* Who counts for quorums of fast leases: the rules of ADR 16, as the code has them. README.md says what is abstracted; `check` runs all
 * variants.
 *
 * `leases.pml` has the whole protocol of leases, and knows time only as an order of windows. Here the lease protocol is no more than what exclusion
 * rests on (a peer acknowledges one of two claims), and the roster is that of the code, line by line, with clocks that count ticks:
 * a read of the branch is fresh for FRESH ticks, a lease lasts for LEASE, the window is both together.
 *
 * Peers 0 and 1 may make a claim each; all others only answer. Every action is one step of one peer. Names are those of the code in
 * src/sudocode_coordination/core/.
 *
 * Bounds, each a -D: N peers, INIT (mask of those who begin, know each other, and have weight), how often each of JOIN, VANISH, LEAVE,
 * RETURN, KILL, LOSE happens (masks say to whom), and how many TICKS pass (any number if not given). Faults: M_*, a rule taken away each.
 */
#ifndef N
#define N 3
#endif
#define ALL ((1 << N) - 1)
#ifndef INIT
#define INIT ALL
#endif
#ifndef FRESH
#define FRESH 1
#endif
#ifndef LEASE
#define LEASE 1
#endif
#ifdef M_SHORT_WINDOW
#define WINDOW (FRESH + LEASE)
#else
#define WINDOW (2 * FRESH + LEASE)
#endif
#define LONG (WINDOW - FRESH)   /* Roster._was_long_off */
#ifndef JOIN
#define JOIN 0
#endif
#ifndef VANISH
#define VANISH 0
#endif
#ifndef LEAVE
#define LEAVE 0
#endif
#ifndef RETURN
#define RETURN 0
#endif
#ifndef KILL
#define KILL 0
#endif
#ifndef LOSE
#define LOSE 0
#endif

/* Who may do so: peers that only answer are alike, so that it is enough to let some of them */
#ifndef VANISHERS
#define VANISHERS ALL
#endif
#ifndef LEAVERS
#define LEAVERS ALL
#endif
#ifndef KILLED
#define KILLED ALL
#endif
#ifndef LOSERS
#define LOSERS ALL
#endif
#ifndef LOOKERS
#define LOOKERS ALL
#endif
#ifndef TOLD
#define TOLD ALL                /* to whom Members come also without an answer */
#endif
#ifndef HEARERS
#define HEARERS ALL
#endif
#ifndef OUTDATED
#define OUTDATED 0              /* whose records are past their ttl from the beginning */
#endif
#ifndef PUBLISHERS
#define PUBLISHERS ALL
#endif
#ifndef ASKED0
#define ASKED0 ALL              /* whom claim 0 reaches */
#endif
#ifndef ASKED1
#define ASKED1 ALL
#endif
#ifndef DEAD
#define DEAD 0                  /* of those who begin: killed before, and never started again */
#endif
#ifndef ARRIVED
#define ARRIVED 0               /* who has joined: has read and published, and not read since; nobody has seen it yet */
#endif
#define FIRST ((INIT) | (ARRIVED))

#ifdef SHORTEST
#define TEMPORARY               /* zero between steps; a search in breadth knows no hidden variables */
#else
#define TEMPORARY hidden
#endif

#define BIT(i) (1 << (i))
#define HAS(mask, i) (((mask) >> (i)) & 1)
#define COUNT(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1) + (((m) >> 4) & 1) + (((m) >> 5) & 1) + \
                  (((m) >> 6) & 1) + (((m) >> 7) & 1))
#define MAJORITY(voices, group) (2 * COUNT((voices) & (group)) > COUNT(group))
#define AT(i, x) ((i) * N + (x))

#if N == 2
#define EACH(A) A(0) A(1)
#elif N == 3
#define EACH(A) A(0) A(1) A(2)
#elif N == 4
#define EACH(A) A(0) A(1) A(2) A(3)
#elif N == 5
#define EACH(A) A(0) A(1) A(2) A(3) A(4)
#elif N == 6
#define EACH(A) A(0) A(1) A(2) A(3) A(4) A(5)
#else
#define EACH(A) A(0) A(1) A(2) A(3) A(4) A(5) A(6) A(7)
#endif

/* Spin's macros do not nest in themselves */
#if N == 2
#define WITH_EACH(A, i) A(i, 0) A(i, 1)
#elif N == 3
#define WITH_EACH(A, i) A(i, 0) A(i, 1) A(i, 2)
#elif N == 4
#define WITH_EACH(A, i) A(i, 0) A(i, 1) A(i, 2) A(i, 3)
#elif N == 5
#define WITH_EACH(A, i) A(i, 0) A(i, 1) A(i, 2) A(i, 3) A(i, 4)
#elif N == 6
#define WITH_EACH(A, i) A(i, 0) A(i, 1) A(i, 2) A(i, 3) A(i, 4) A(i, 5)
#else
#define WITH_EACH(A, i) A(i, 0) A(i, 1) A(i, 2) A(i, 3) A(i, 4) A(i, 5) A(i, 6) A(i, 7)
#endif

/* --- claims --- */
#define NONE 0
#define PENDING 1
#define GRANTED 2
byte st[2];
byte age[2];            /* ticks since sent_at */
byte acks[2];           /* Holding.acks: whose answer counts */
byte knows[2];          /* who has it on disk (StoredClaim) */

/* --- the branch --- */
byte branch = FIRST;     /* whose record is there */
byte current = INIT * ((ARRIVED) == 0);   /* who has read it as it is: a publication is a compare-and-swap on that */
#ifdef RECORD
byte in_date[N];         /* ticks until that record is past its ttl: nobody first saw it before it was signed */
byte own_until[N];      /* Electorate._own_until */
#endif

/* --- peers --- */
byte alive = FIRST & ~(DEAD);
byte parted;              /* who has said goodbye and not begun anew */
byte bye[N];            /* Bye of that peer: who may still hear it */
byte forgetful[N];      /* ticks until LeaseBook.remembers */
byte published = FIRST;  /* the record is of this life: OwnRecords.counts_until is not 0 */
byte voiced = INIT;     /* Electorate._own_until is not 0: it has seen its record */
byte here = FIRST;       /* Discovery.roster_read_at: it has read in this life */
byte listed = INIT;     /* Electorate._listed */
byte stranger;          /* Electorate._stranger */
byte back;              /* Electorate._is_back */

/* --- Roster of each --- */
byte mem[N];            /* _since, and itself */
byte van[N];            /* _vanished */
byte over[N];           /* _over */
byte byes[N];           /* _goodbyes */
byte since[N * N];      /* ticks until it has weight */
byte lasts[N * N];      /* ticks until the window of a vanished one is over */
byte seen[N * N];       /* ticks since it was last seen; LONG: for so long, or never */
byte read[N];           /* ticks since read_at; FRESH + 1: too long ago, FRESH + 2: never */
byte looked = INIT;     /* looked */
byte group[2 * N];      /* Electorate._groups: what a peer has told a claimant of weight */
byte told[2];           /* who has */

TEMPORARY byte e, f, x, k, v, w, y, present;
TEMPORARY byte own, ok, unwatched, whole;

byte joins = JOIN;
byte vanishings = VANISH;
byte leaves = LEAVE;
byte returns = RETURN;
byte kills = KILL;
byte losses = LOSE;
#ifdef TICKS
byte ticks = TICKS;
#endif
#ifdef DECIDED
bit runs;               /* some clock does that may change who counts */
#endif

/* Roster.established of i, into e */
inline established(i) {
    e = 0; y = 0;
    do
    :: y < N ->
        if
        :: HAS(mem[i], y) && since[AT(i, y)] == 0 && (y != i || HAS(looked, i)) -> e = e | BIT(y)
        :: else
        fi;
        y++
    :: else -> break
    od;
    y = 0;
    e = (e -> e : BIT(i))
}

/* LeaseBook.is_voice */
#ifdef M_OWN_RECORD_AGE
#define IN_DATE(i) HAS(voiced, i)
#elif defined(RECORD)
#define IN_DATE(i) (own_until[i] > 0)
#else
#define IN_DATE(i) HAS(voiced, i)
#endif
#ifdef M_AMNESIA
#define IS_VOICE(i) IN_DATE(i)
#else
#define IS_VOICE(i) (forgetful[i] == 0 && IN_DATE(i))
#endif

/* View.roster_fresh */
#define STEADY(i) (HAS(here, i) && HAS(listed, i) && read[i] <= FRESH && IN_DATE(i))

#ifdef AWAY                     /* who reads only in the first tick and the last */
#define AT_HOME(i) (!HAS(AWAY, i) || ticks == TICKS || ticks == 0)
#else
#define AT_HOME(i) true
#endif

#ifdef M_VOICE
#define VOICES(i) mem[i]
#else
#define VOICES(i) (mem[i] & ~van[i])
#endif

/* `standing` with Electorate._view: whether claim c has a quorum, into ok */
inline standing(c) {
    ok = 0;
    established(c);
    v = (acks[c] & VOICES(c)) | (IS_VOICE(c) << c);
    f = e; ok = 1;
    if
    :: !HAS(e, c) && (told[c] & mem[c]) ->
#ifndef M_GROUPS
        /* who is new believes the others about weight */
        w = 1;
        do
        :: w == 0 -> break
        :: else ->
            w = 0; y = 0;
            do
            :: y < N ->
                if
                :: HAS(v, y) && HAS(told[c], y) && !MAJORITY(v, group[AT(c, y)] & mem[c]) -> w = w | BIT(y)
                :: else
                fi;
                y++
            :: else -> break
            od;
            v = v & ~w
        od;
#endif
#ifndef M_FOUNDERS
        /* those who say that they are new too may have found each other before, and hold */
        y = 0;
        do
        :: y < N ->
            if
            :: HAS(e, y) && HAS(told[c], y) && !HAS(group[AT(c, y)], y) && !MAJORITY(v, group[AT(c, y)] & mem[c]) -> ok = 0
            :: else
            fi;
            y++
        :: else -> break
        od;
#endif
#ifndef M_ELDERS
        /* and who says that it is new does not outvote those who were there */
        f = 0; y = 0;
        do
        :: y < N ->
            if
            :: HAS(e, y) && (!HAS(told[c], y) || HAS(group[AT(c, y)], y)) -> f = f | BIT(y)
            :: else
            fi;
            y++
        :: else -> break
        od;
        f = (f -> f : e);
#endif
        y = 0; w = 0
    :: else
    fi;
    ok = ok && !HAS(knows[1 - (c)], c) && STEADY(c) && MAJORITY(v, mem[c]) && MAJORITY(v, e) && MAJORITY(v, f);
    v = 0; f = 0; e = 0
}

/* OwnLeases._evaluate, after every step: what can be granted is */
inline evaluate(c) {
    if
    :: st[c] == PENDING ->
        standing(c);
        if
        :: ok -> st[c] = GRANTED; printf("claim %d QUORUM: acks %d members %d told %d\n", c, acks[c], mem[c], told[c])
        :: else
        fi;
        ok = 0
    :: else
    fi
}
inline decide() {
    evaluate(0); evaluate(1);
#ifdef DECIDED
    runs = 0; k = 0;
    do
    :: k < N * N -> runs = runs || since[k] || lasts[k]; k++
    :: else -> break
    od;
    k = 0;
    do
    :: k < N -> runs = runs || forgetful[k]; k++
    :: else -> break
    od;
    k = 0;
#endif
    assert(!(st[0] == GRANTED && st[1] == GRANTED))             /* S1: two quorum leases are not valid together */
}

/* Roster._forget */
inline forget_peer(i, j) {
    mem[i] = mem[i] & ~BIT(j); van[i] = van[i] & ~BIT(j);
    since[AT(i, j)] = 0; lasts[AT(i, j)] = 0; seen[AT(i, j)] = LONG
}

/* Roster.passed */
inline passed(i) {
    if
    :: read[i] <= FRESH ->
        x = 0;
        do
        :: x < N ->
            if
#ifndef M_FOREVER
            :: HAS(van[i], x) && lasts[AT(i, x)] == 0 -> forget_peer(i, x); over[i] = over[i] | BIT(x)
#endif
            :: else
            fi;
            x++
        :: else -> break
        od;
        x = 0
    :: else
    fi
}

/* Roster._deal */
inline deal(i) {
    looked = looked | BIT(i); y = 0;
    do
    :: y < N -> since[AT(i, y)] = 0; y++
    :: else -> break
    od;
    y = 0;
    since[AT(i, i)] = (mem[i] & ~BIT(i) -> WINDOW : 0)
}

#ifdef M_RETURN_SELF
#define SELF_OFF(i) false
#else
#define SELF_OFF(i) (seen[AT(i, i)] == LONG)
#endif
#ifdef M_RETURN_OTHERS
#define OTHER_OFF(i, j) false
#else
#define OTHER_OFF(i, j) (seen[AT(i, j)] == LONG)
#endif

/* Electorate.branch_read, Roster.update. `stale`: whose records look out of date */
inline look(i, stale) {
    unwatched = (read[i] == FRESH + 1);
#ifdef M_UNWATCHED
    unwatched = 0;
#endif
    byes[i] = byes[i] & branch;
    present = branch & ~(stale) & ~BIT(i) & ~byes[i];
    read[i] = 0; here = here | BIT(i); current = current | BIT(i);
    if
    :: HAS(back, i) && !HAS(looked, i) && branch == 0 -> back = back & ~BIT(i); stranger = stranger | BIT(i)
    :: else
    fi;
#ifdef RECORD
    if
    :: HAS(branch, i) && HAS(published, i) -> own_until[i] = in_date[i]; voiced = voiced | BIT(i)
    :: else
    fi;
    own = HAS(branch, i) && own_until[i] > 0;
#else
    voiced = voiced | (branch & published & BIT(i));
    own = HAS(branch, i) && HAS(voiced, i);
#endif
    listed = (listed & ~BIT(i)) | (own << i);
    x = 0;
    do
    :: x < N ->
        if
        :: HAS(present, x) ->
            over[i] = over[i] & ~BIT(x);
            if
            :: !HAS(mem[i], x) -> since[AT(i, x)] = WINDOW
            :: HAS(van[i], x) && OTHER_OFF(i, x) -> since[AT(i, x)] = WINDOW
            :: else
            fi;
            mem[i] = mem[i] | BIT(x); van[i] = van[i] & ~BIT(x);
            lasts[AT(i, x)] = 0; seen[AT(i, x)] = 0
        :: else
        fi;
        x++
    :: else -> break
    od;
    whole = (HAS(stranger, i) && own && !HAS(looked, i));
    if
    :: own ->
        if
        :: !HAS(looked, i) || SELF_OFF(i) -> deal(i)
        :: else
        fi;
        seen[AT(i, i)] = 0
    :: else
    fi;
    x = 0;
    do
    :: x < N ->
        if
        :: x != i && HAS(mem[i], x) && !HAS(present, x) && (unwatched || !HAS(van[i], x)) ->
#ifdef M_DROP
            forget_peer(i, x)
#else
            van[i] = van[i] | BIT(x);
            lasts[AT(i, x)] = (lasts[AT(i, x)] > WINDOW -> lasts[AT(i, x)] : WINDOW)
#endif
        :: else
        fi;
        x++
    :: else -> break
    od;
    x = 0;
    passed(i);
    if
    :: whole -> stranger = stranger & ~BIT(i); forgetful[i] = WINDOW
    :: else
    fi;
    present = 0; own = 0; unwatched = 0; whole = 0
}

#ifdef M_BROUGHT_BACK
#define UNKNOWN(i, j) (mem[j] & ~(mem[i] | byes[i] | BIT(i)))
#else
#define UNKNOWN(i, j) (mem[j] & ~(mem[i] | over[i] | byes[i] | BIT(i)))
#endif
#define MAY_BE_NEW(i) (!HAS(looked, i) || since[AT(i, i)] > 0 || seen[AT(i, i)] == LONG)
/* Electorate.greet, changed, heard with Roster.told, adopt: j tells i whom it counts */
inline tell(i, j) {
    passed(j); established(j);
    byes[i] = byes[i] & ~BIT(j);                                /* the hello before: Roster.back */
#ifndef M_UNTOLD
    x = 0;
    do
    :: x < N ->
        if
        :: HAS(UNKNOWN(i, j), x) ->
            mem[i] = mem[i] | BIT(x); van[i] = van[i] | BIT(x);
            lasts[AT(i, x)] = FRESH + (HAS(van[j], x) -> (lasts[AT(j, x)] < WINDOW -> lasts[AT(j, x)] : WINDOW) : WINDOW)
        :: else
        fi;
        x++
    :: else -> break
    od;
    x = 0;
#endif
    if
    :: i < 2 && MAY_BE_NEW(i) -> group[AT(i % 2, j)] = e & mem[i]; told[i % 2] = told[i % 2] | BIT(j)
    :: else
    fi;
    e = 0
}

/* The roster of one that has none */
inline blank(i) {
    mem[i] = BIT(i); van[i] = 0; over[i] = 0; byes[i] = 0; read[i] = FRESH + 2; x = 0;
    do
    :: x < N -> since[AT(i, x)] = 0; lasts[AT(i, x)] = 0; seen[AT(i, x)] = LONG; x++
    :: else -> break
    od;
    x = 0;
    looked = looked & ~BIT(i); voiced = voiced & ~BIT(i);
#ifdef RECORD
    own_until[i] = 0;
#endif
}

/* A process begins */
inline begin(i) {
    alive = alive | BIT(i); parted = parted & ~BIT(i); bye[i] = 0;
    here = here & ~BIT(i); listed = listed & ~BIT(i); published = published & ~BIT(i); current = current & ~BIT(i);
    if
    :: i < 2 ->
        told[i % 2] = 0; x = 0;
        do
        :: x < N -> group[AT(i % 2, x)] = 0; x++
        :: else -> break
        od;
        x = 0
    :: else
    fi
}

inline tick() {
    k = 0;
    do
    :: k < N * N ->
        since[k] = (since[k] -> since[k] - 1 : 0);
        lasts[k] = (lasts[k] -> lasts[k] - 1 : 0);
        seen[k] = (seen[k] < LONG -> seen[k] + 1 : LONG);
        k++
    :: else -> break
    od;
    k = 0;
    do
    :: k < N ->
        read[k] = (read[k] <= FRESH -> read[k] + 1 : read[k]);
        forgetful[k] = (forgetful[k] -> forgetful[k] - 1 : 0);
#ifdef RECORD
        in_date[k] = (in_date[k] -> in_date[k] - 1 : 0);
        own_until[k] = (own_until[k] -> own_until[k] - 1 : 0);
#endif
        k++
    :: else -> break
    od;
    k = 0;
    do
    :: k < N -> passed(k); k++
    :: else -> break
    od;
    k = 0;
    age[0] = (st[0] != NONE -> age[0] + 1 : 0);
    age[1] = (st[1] != NONE -> age[1] + 1 : 0)
}

#define IDLE(i) ((i) > 1 || st[(i) % 2] == NONE)
#ifdef DECIDED
/* Peer 0 claims, and asks anew after each tick; nobody answers again without need. Whoever is alive reads in every tick. */
#define READ(i) && (!HAS(alive, i) || read[i] == 0)
#define READ_ALL true EACH(READ)
#define LASTS(c) true
#define SPEND st[0] = NONE; acks[0] = 0; knows[0] = 0; age[0] = 0;
#define HAS_TIME runs && READ_ALL
#define ANSWERS_MORE(c, j) (!HAS(knows[c], j) || IS_VOICE(j))
#define CLAIMS(j) false
#else
/* Once one of the two leases is over nothing can be wrong any more */
#define LASTS(c) (st[c] == NONE || age[c] < LEASE - 1)
#define ANSWERS_MORE(c, j) true
#define CLAIMS(j) ((j) < 2)
#ifdef TICKS
#define HAS_TIME ticks > 0
#define SPEND ticks--;
#else
#define HAS_TIME true
#define SPEND
#endif
#endif

/* A claim and its answer. Whoever knows the other one discloses it, which ends the matter: not looked at, nor is that an owner knows the
 * other's claim, unless it may forget it */
#define EXCHANGE(c, j) \
    :: d_step { j != c && st[c] != GRANTED && HAS(alive, c) && HAS(alive, j) && MET(c, j) && !HAS(acks[c], j) && !HAS(knows[1 - (c)], j) && !HAS(knows[1 - (c)], c) && HAS(ASKED(c), j) && \
            ANSWERS_MORE(c, j) && (!CLAIMS(j) || (losses > 0 && st[1 - (c)] == NONE)) -> \
        st[c] = PENDING; knows[c] = knows[c] | BIT(c) | BIT(j); tell(c, j); \
        acks[c] = acks[c] | (IS_VOICE(j) << j); \
        printf("claim %d is acknowledged by %d, a voice: %d\n", c, j, IS_VOICE(j)); \
        decide() }
#define ASKED(c) (c -> ASKED1 : ASKED0)
#define EXCHANGE0(j) EXCHANGE(0, j)
#define EXCHANGE1(j) EXCHANGE(1, j)

/* Who needs nobody else; a claim that is asked and not granted waits for its first answer */
#define ALONE(c) \
    :: d_step { st[c] == NONE && ASKED(c) && HAS(alive, c) && mem[c] == BIT(c) && STEADY(c) && !HAS(knows[1 - (c)], c) -> \
        st[c] = PENDING; knows[c] = knows[c] | BIT(c); printf("claim %d asked\n", c); decide(); \
        if \
        :: st[c] == PENDING -> st[c] = NONE; knows[c] = knows[c] & ~BIT(c) \
        :: else \
        fi }

#ifdef RECORD
#define OUT_OF_DATE ((in_date[0] == 0) | ((in_date[1 % N] == 0) << 1) | ((in_date[2 % N] == 0) << 2) | ((in_date[3 % N] == 0) << 3) | ((in_date[4 % N] == 0) << 4))
#define LOOK(i) LOOK_AT(i, 0) LOOK_AT(i, OUT_OF_DATE)
#else
#define LOOK(i) LOOK_AT(i, 0)
#endif
#define LOOK_AT(i, stale) \
    :: d_step { HAS(LOOKERS, i) && HAS(alive, i) && AT_HOME(i) && (read[i] > 0 || !HAS(current, i)) -> look(i, stale); \
        printf("%d reads: branch %d, members %d, vanished %d\n", i, branch, mem[i], van[i]); decide() }
#ifdef RECORD
#define SIGN(i) in_date[i] = RECORD;
#define RENEWS(i) true
#else
#define SIGN(i)
#define RENEWS(i) (!HAS(branch, i) || !HAS(published, i))
#endif
#ifdef RETURN_TOGETHER          /* each reads and publishes, one after the other, in one step */
#define PUBLISH_ONE(i) \
        if \
        :: HAS(PUBLISHERS, i) && HAS(alive, i) && RENEWS(i) -> \
            look(i, 0); branch = branch | BIT(i); published = published | BIT(i); current = 0; printf("%d publishes\n", i) \
        :: else \
        fi;
#define PUBLISH_EACH :: d_step { ((PUBLISHERS) & ~branch) -> EACH(PUBLISH_ONE) skip }
#else
#define PUBLISH(i) \
    :: d_step { HAS(PUBLISHERS, i) && HAS(alive, i) && HAS(here, i) && HAS(current, i) && RENEWS(i) -> \
        branch = branch | BIT(i); published = published | BIT(i); current = 0; SIGN(i) printf("%d publishes\n", i) }
#define PUBLISH_EACH EACH(PUBLISH)
#endif

/* Connected: each has seen the record of the other */
#define MET(i, j) (HAS(mem[i] | over[i], j) && HAS(mem[j] | over[j], i))
#ifdef TELLS
#define IS_NEW(i) (i < 2 && MAY_BE_NEW(i))
#else
#define IS_NEW(i) false         /* who is new learns of weight along with answers */
#endif
#define TELL_TO(i, j) \
    :: d_step { i != j && HAS(TOLD, i) && HAS(alive, i) && HAS(alive, j) && MET(i, j) && (UNKNOWN(i, j) || IS_NEW(i)) -> \
        tell(i, j); printf("%d is told by %d: members %d\n", i, j, mem[i]); decide() }
#define TELL(i) WITH_EACH(TELL_TO, i)

#ifdef TOGETHER                 /* all of them by one rewrite of the branch */
#define VANISHES(j) \
    :: d_step { j == 0 && vanishings > 0 && branch & (VANISHERS) -> \
        vanishings--; branch = branch & ~(VANISHERS); current = 0; printf("the branch is rewritten: %d\n", branch) }
#else
#define VANISHES(j) \
    :: d_step { vanishings > 0 && HAS(VANISHERS, j) && HAS(branch, j) -> \
        vanishings--; branch = branch & ~BIT(j); current = 0; printf("record of %d vanishes\n", j) }
#endif

#define JOINS(i) \
    :: d_step { joins > 0 && !HAS(alive, i) && mem[i] == 0 -> \
        joins--; begin(i); blank(i); printf("%d joins\n", i) }

/* The process is killed and started anew, with its disk */
#ifdef M_NOT_KEPT
#define KEPT(i) blank(i);
#else
#define KEPT(i)
#endif
#define KILLS(i) \
    :: d_step { kills > 0 && HAS(KILLED, i) && HAS(alive, i) && IDLE(i) -> \
        kills--; begin(i); KEPT(i) printf("%d is started again\n", i) }

/* … without it: LeaseManager.forget */
#ifdef M_STRANGER
#define STRANGE(i)
#else
#define STRANGE(i) stranger = stranger | BIT(i); forgetful[i] = WINDOW;
#endif
#define LOSES(i) \
    :: d_step { losses > 0 && HAS(LOSERS, i) && HAS(alive, i) && IDLE(i) -> \
        losses--; begin(i); blank(i); back = back & ~BIT(i); STRANGE(i) \
        knows[0] = knows[0] & ~BIT(i); knows[1] = knows[1] & ~BIT(i); \
        printf("%d is started without its disk\n", i) }

/* Node._stop: goodbye, an empty roster on disk; the record is removed later, or not */
#define LEAVES(i) \
    :: d_step { leaves > 0 && HAS(LEAVERS, i) && HAS(alive, i) && IDLE(i) -> \
        leaves--; alive = alive & ~BIT(i); parted = parted | BIT(i); bye[i] = HEARERS & alive; \
        blank(i); here = here & ~BIT(i); listed = listed & ~BIT(i); back = back | BIT(i); stranger = stranger & ~BIT(i); \
        printf("%d leaves\n", i) }
#define REMOVES(i) \
    :: d_step { HAS(parted, i) && HAS(branch, i) -> \
        branch = branch & ~BIT(i); current = 0; printf("record of %d is removed\n", i) }
#define HEAR(i, j) \
    :: d_step { HAS(bye[j], i) && HAS(alive, i) -> \
        bye[j] = bye[j] & ~BIT(i); \
        INHERIT(i, j) \
        forget_peer(i, j); byes[i] = byes[i] | BIT(j); over[i] = over[i] | BIT(j); \
        printf("%d hears goodbye of %d\n", i, j); decide() }
#ifdef M_TESTAMENT
#define INHERIT(i, j)
#else
/* LeaseManager.inherit: what it acknowledged counts here. It is in the way of an own claim here, which ends the matter */
#define INHERIT(i, j) knows[0] = knows[0] | (HAS(knows[0], j) << i); knows[1] = knows[1] | (HAS(knows[1], j) << i);
#endif
#define HEAR_ALL(i) WITH_EACH(HEAR, i)
#define RETURNS(i) \
    :: d_step { returns > 0 && HAS(parted, i) -> \
        returns--; begin(i); printf("%d is back\n", i) }

init {
    d_step {
        x = 0;
        do
        :: x < N ->
            if
            :: HAS(INIT, x) -> mem[x] = INIT; read[x] = 0
            :: HAS(ARRIVED, x) -> mem[x] = BIT(x)
            :: else -> read[x] = FRESH + 2
            fi;
#ifdef RECORD
            in_date[x] = (HAS(INIT & ~(OUTDATED), x) -> RECORD : 0); own_until[x] = in_date[x];
#endif
#ifdef NEW
            since[AT(x, x)] = (HAS(INIT, x) -> WINDOW : 0);     /* they have just found each other */
#endif
            k = 0;
            do
            :: k < N -> seen[AT(x, k)] = (HAS(INIT, x) && HAS(INIT, k) -> 0 : LONG); k++
            :: else -> break
            od;
            x++
        :: else -> break
        od;
        x = 0; k = 0
    }
#ifdef DECIDED
    /* What is left when nothing can happen any more, and it was not granted, is a deadlock (an invalid end state) */
    {
#else
end:
#endif
    do
    ALONE(0) ALONE(1)
    EACH(EXCHANGE0) EACH(EXCHANGE1)
    EACH(LOOK)
    PUBLISH_EACH
    EACH(TELL)
    :: d_step { HAS_TIME && LASTS(0) && LASTS(1) -> SPEND tick(); printf("a tick\n"); decide() }
#if VANISH > 0
    EACH(VANISHES)
#endif
#if JOIN > 0
    EACH(JOINS)
#endif
#if KILL > 0
    EACH(KILLS)
#endif
#if LOSE > 0
    EACH(LOSES)
#endif
#if LEAVE > 0
    EACH(LEAVES) EACH(REMOVES) EACH(HEAR_ALL)
#endif
#if RETURN > 0
    EACH(RETURNS)
#endif
    od
#ifdef DECIDED
    } unless { st[0] == GRANTED }
#endif
}
